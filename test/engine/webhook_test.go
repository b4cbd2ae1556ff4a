package engine

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
)

// webhook is a server of admission webhooks that lets everything pass, once it is up.
type webhook struct {
	addr  string
	ca    []byte // PEM
	cert  tls.Certificate
	calls atomic.Int64
}

// newWebhook takes an address and makes a certificate for it. Nobody listens there yet.
func newWebhook(t *testing.T) *webhook {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "webhook"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &webhook{
		addr: agenttest.FreeAddr(t), ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
	}
}

// start makes the webhook answer.
func (w *webhook) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: w, ReadHeaderTimeout: time.Minute}
	go func() {
		tl := tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{w.cert}, MinVersion: tls.VersionTLS12})
		if err := server.Serve(tl); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("webhook: %v", err)
		}
	}()
	t.Cleanup(func() { _ = server.Close() })
}

func (w *webhook) ServeHTTP(out http.ResponseWriter, req *http.Request) {
	w.calls.Add(1)
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(req.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(out, "no review", http.StatusBadRequest)
		return
	}
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	review.Request = nil
	out.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(out).Encode(review)
}

// configuration lets the webhook admit the test's ConfigMaps that are labelled as its own, and no others.
func (w *webhook) configuration() string {
	// Base64 may hold the letters that stand for the test's namespace: its N is written as an escape.
	ca := strings.ReplaceAll(base64.StdEncoding.EncodeToString(w.ca), "N", `\x4e`)
	return fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: NS-webhook}
webhooks:
- name: late.NS.example.com
  sideEffects: None
  admissionReviewVersions: [v1]
  timeoutSeconds: 1
  clientConfig: {url: "https://%s/admit", caBundle: "%s"}
  objectSelector: {matchLabels: {admitted: NS}}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]
`, w.addr, ca)
}

// admitted is a ConfigMap that the webhook has to let pass.
func admitted(name, value string) string {
	return strings.Replace(configMap(name, value), "namespace: NS,", "namespace: NS, labels: {admitted: NS},", 1)
}

// A webhook that comes up late is waited for by what it admits, and by nothing else.
func TestWebhook_thatComesUpLate(t *testing.T) {
	w := newWebhook(t)
	r := start(t, files{
		"hook/bundle.yaml": bundle("hook", ""), "hook/webhook.yaml": w.configuration(), "hook/first.yaml": admitted("first", "one"),
	})
	// In its own bundle it comes last: what it admits is there before it.
	r.Ready("NS-hook", "")
	r.value("first", "one")
	began := time.Now()
	revision := r.Commit(files{
		"a/bundle.yaml": bundle("a", ""), "a/x.yaml": admitted("x", "one"), "a/y.yaml": configMap("y", "one"),
		"b/bundle.yaml": bundle("b", ""), "b/z.yaml": configMap("z", "one"),
	})
	r.Failed("NS-a", "a/x.yaml", "failed calling webhook")
	b, err := r.Bundle(t.Context(), "NS-a")
	if err != nil || b.Error == nil || b.Error.Kind != "waiting" || b.Error.Reason != "WebhookNotReady" {
		t.Errorf("the error is %+v (%v)", b.Error, err)
	}
	// Neither the object's neighbours nor other bundles are held up, new commits included.
	r.value("y", "one")
	r.Ready("NS-b", revision)
	r.Ready("NS-b", r.Commit(files{"b/z.yaml": configMap("z", "two")}))
	r.value("z", "two")
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("others were held up for %s", took)
	}
	if _, err := r.Kube.CoreV1().ConfigMaps(r.NS).Get(t.Context(), "x", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what the webhook has to admit was written without it (%v)", err)
	}

	w.start(t)
	up := time.Now()
	r.value("x", "one")
	// The API server itself may hold back for a moment after a connection that failed.
	if took := time.Since(up); took > 4*time.Second {
		t.Errorf("it took %s until what waits for the webhook was applied", took)
	}
	r.Ready("NS-a", "")
	if w.calls.Load() == 0 {
		t.Error("the webhook was never asked")
	}
	// And in routine.
	r.Ready("NS-a", r.Commit(files{"a/x.yaml": admitted("x", "two")}))
	r.value("x", "two")
}

// served is a webhook that a Service of the same bundle serves, and that the bundle's own Things pass.
// Nobody can reach the Service's address here: the webhook is one that may fail.
func served(sideEffects string) string {
	return fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: NS-served}
webhooks:
- name: served.NS.example.com
  sideEffects: %s
  failurePolicy: Ignore
  timeoutSeconds: 1
  admissionReviewVersions: [v1]
  clientConfig: {service: {namespace: NS, name: served}}
  rules: [{apiGroups: [NS.example.com], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [things]}]
`, sideEffects)
}

// A bundle brings a kind, its webhook and an instance: the instance is written when somebody answers for it.
func TestWebhook_comesBeforeWhatItAdmits(t *testing.T) {
	service := "apiVersion: v1\nkind: Service\nmetadata: {name: served, namespace: NS}\nspec: {selector: {app: served}, ports: [{port: 443}]}\n"
	r := start(t, files{
		"a/bundle.yaml": bundle("a", ""), "a/crd.yaml": crd, "a/thing.yaml": thing("one", "one"), "a/x.yaml": configMap("x", "one"),
		"a/service.yaml": service, "a/server.yaml": deployment("served", 1, "nodeSelector: {no: where}"), "a/webhook.yaml": served("Nonsense"),
		"b/bundle.yaml": bundle("b", ""), "b/y.yaml": configMap("y", "one"),
	})
	noThing := func() {
		t.Helper()
		if _, err := r.Dynamic.Resource(r.things()).Namespace(r.NS).Get(t.Context(), "one", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Fatalf("it was written without the webhook (%v)", err)
		}
	}
	// A webhook that is refused holds back what it should admit, and nothing else.
	r.Failed("NS-a", "a/webhook.yaml", "Thing", "waits for ValidatingWebhookConfiguration")
	r.value("x", "one")
	r.Ready("NS-b", "")
	noThing()
	// One that nobody serves yet does, too, and other bundles go on.
	r.Commit(files{"a/webhook.yaml": served("None")})
	hooks := schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"}
	r.Eventually("the webhook is there", func(ctx context.Context) error {
		_, err := r.Dynamic.Resource(hooks).Get(ctx, r.NS+"-served", metav1.GetOptions{})
		return err
	})
	r.Ready("NS-b", r.Commit(files{"b/y.yaml": configMap("y", "two")}))
	time.Sleep(2 * time.Second)
	noThing()
	// A newer revision ends the wait, and brings who serves it.
	revision := r.Commit(files{"a/server.yaml": deployment("served", 1, "")})
	r.thingIs("one", "one")
	web, err := r.Kube.AppsV1().Deployments(r.NS).Get(t.Context(), "served", metav1.GetOptions{})
	if err != nil || web.Status.ReadyReplicas == 0 {
		t.Errorf("it was written before the webhook was served: %+v (%v)", web.Status, err)
	}
	r.Ready("NS-a", revision)
}
