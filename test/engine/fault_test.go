package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/agent"
	"github.com/flotilla-fleet/flotilla/internal/agent/agenttest"
	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
	"github.com/flotilla-fleet/flotilla/internal/gitserver"
)

const (
	faultPasses  = 50
	faultBundles = 4
	faultObjects = 6
	// faultTimeout is how long the agent waits for an answer.
	faultTimeout = 2 * time.Second
)

// trouble spoils about one request in six, in every way that an API server and the way to it can go wrong.
func trouble(random *rand.Rand) func(*http.Request) *agenttest.Fault {
	return func(req *http.Request) *agenttest.Fault {
		// What an agent needs before its first pass is spared: it would be waited for in growing steps, and this is about passes.
		first := strings.Contains(req.URL.Path, "/leases") || strings.Contains(req.URL.Path, "/customresourcedefinitions/") ||
			strings.HasSuffix(req.URL.Path, "/namespaces/"+api.SystemNamespace)
		if first || random.IntN(6) > 0 {
			return nil
		}
		f := &agenttest.Fault{
			Status: []int{429, 500, 409, 503, 504, 0}[random.IntN(6)],
			Late:   random.IntN(2) == 0,
		}
		if agenttest.IsWatch(req) && f.Status == http.StatusConflict {
			f.Status = http.StatusGone
		}
		switch random.IntN(12) {
		case 0, 1, 2:
			f.Wait = time.Duration(random.IntN(500)) * time.Millisecond
		case 3:
			f.Wait = faultTimeout + 500*time.Millisecond // the agent gives up before anybody answers
		}
		return f
	}
}

// inGit is what bundle b holds at a pass: objects come, go and change.
func inGit(pass, b int) map[string]string {
	out := map[string]string{}
	for i := range faultObjects {
		if i == 0 || (pass+b+i)%4 != 0 {
			out[fmt.Sprintf("b%d-o%d", b, i)] = fmt.Sprint((pass + i) / 3)
		}
	}
	return out
}

// moves is an object that is in another bundle every other pass.
const moves = "moves"

func homeOf(pass int) string { return fmt.Sprintf("b%d", pass/2%faultBundles) }

// faultCommit brings the repository to a pass.
func faultCommit(pass int) gitserver.Commit {
	c := gitserver.Commit{Write: files{}}
	for b := range faultBundles {
		dir := fmt.Sprintf("b%d", b)
		spec := ""
		if b == 1 {
			spec = "dependsOn: [NS-b0]"
		}
		c.Write[dir+"/bundle.yaml"] = bundle(dir, spec)
		c.Write[dir+"/stays.yaml"] = configMap(dir+"-stays", "always")
		now := inGit(pass, b)
		for i := range faultObjects {
			name := fmt.Sprintf("%s-o%d", dir, i)
			if value, ok := now[name]; ok {
				c.Write[dir+"/"+name+".yaml"] = configMap(name, value)
			} else if pass > 0 {
				c.Delete = append(c.Delete, dir+"/"+name+".yaml")
			}
		}
	}
	c.Write["b2/web.yaml"] = deployment("web", pass%3, "")
	c.Write[homeOf(pass)+"/moves.yaml"] = configMap(moves, homeOf(pass))
	if pass > 0 && homeOf(pass) != homeOf(pass-1) {
		c.Delete = append(c.Delete, homeOf(pass-1)+"/moves.yaml")
	}
	return c
}

// bystanders makes objects that look like ours and are not, and some that nobody would take for ours.
func (r *rig) bystanders() []*corev1.ConfigMap {
	r.t.Helper()
	ours := markers(r.NS + "-b0")
	but := func(key, value string) map[string]string {
		out := maps.Clone(ours)
		if delete(out, key); value != "" {
			out[key] = value
		}
		return out
	}
	return []*corev1.ConfigMap{
		r.create("no-labels", "hand", nil, nil),
		r.create("other-manager", "hand", but(api.LabelManagedBy, "helm"), nil),
		r.create("no-manager", "hand", but(api.LabelManagedBy, ""), nil),
		r.create("other-applyset", "hand", but(api.LabelPartOf, "applyset-other-v1"), nil),
		r.create("no-applyset", "hand", but(api.LabelPartOf, ""), nil),
		r.create("other-bundle", "hand", markers(r.NS+"-nowhere"), nil),
		// It differs in nothing but that Git never had it.
		r.create("not-in-git", "hand", ours, nil),
		// Git wants this one, and its operator does not.
		r.create("b3-o0", "operator", nil, map[string]string{api.AnnotationReconcile: api.ValueDisabled}),
	}
}

func TestFaults_inFiftyPasses(t *testing.T) {
	plane := controlplanetest.New(t, controlplane.Config{})
	r := newRig(t, agenttest.Config{Plane: plane, Mode: agenttest.Proxied, Files: files{"fleet.yaml": fleet("guards: {maxDeletePercent: 100}")}, Change: func(c *agent.Config) {
		c.REST = rest.CopyConfig(c.REST)
		c.REST.Timeout = faultTimeout
	}})
	bystanders := r.bystanders()
	r.Start()
	r.Do(faultCommit(0))
	for b := range faultBundles {
		r.Ready(fmt.Sprintf("NS-b%d", b), "")
	}
	uids := map[string]types.UID{}
	for b := range faultBundles {
		name := fmt.Sprintf("b%d-stays", b)
		uids[name] = r.get(name).UID
	}
	uids[moves] = r.get(moves).UID
	random := rand.New(rand.NewPCG(3, 5))
	r.Proxy.Spoil(trouble(random)) // the proxy asks it one request at a time
	var last string
	begun := 0
	for pass := 1; pass <= faultPasses; pass++ {
		last = r.Do(faultCommit(pass))
		switch pass {
		case 15, 35:
			if err := plane.KillAPIServer(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(700 * time.Millisecond)
			last = r.Do(faultCommit(pass))
			if err := plane.StartAPIServer(t.Context()); err != nil {
				t.Fatal(err)
			}
		case 25:
			r.Stop()
			r.Start()
		default:
			// Nobody waits for a pass to succeed; it has to have been begun.
			if r.adopting(last) {
				begun++
			}
		}
		if pass%5 == 0 {
			r.patchLater(fmt.Sprintf("b%d-stays", pass/5%faultBundles), `{"data":{"key":"edited"}}`)
		}
	}
	r.Proxy.Spoil(nil)
	// Of the others the report, which goes through the same faults, may have come too late.
	if begun < faultPasses*3/5 {
		t.Errorf("only %d of %d passes are known to have begun", begun, faultPasses)
	}
	r.Applied(last)
	for b := range faultBundles {
		r.Ready(fmt.Sprintf("NS-b%d", b), "")
	}
	r.Eventually("the cluster equals Git", func(ctx context.Context) error {
		list, err := r.Kube.CoreV1().ConfigMaps(r.NS).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		want := map[string]string{}
		for b := range faultBundles {
			maps.Copy(want, inGit(faultPasses, b))
			want[fmt.Sprintf("b%d-stays", b)] = "always"
		}
		want[moves] = homeOf(faultPasses)
		for _, m := range bystanders {
			want[m.Name] = m.Data["key"]
		}
		var errs []error
		for _, m := range list.Items {
			if value, ok := want[m.Name]; m.Name != "kube-root-ca.crt" && (!ok || value != m.Data["key"]) {
				errs = append(errs, fmt.Errorf("%s is %q, want %q (%t)", m.Name, m.Data["key"], value, ok))
			}
			delete(want, m.Name)
		}
		for name := range want {
			errs = append(errs, fmt.Errorf("%s is missing", name))
		}
		web, err := r.Kube.AppsV1().Deployments(r.NS).Get(ctx, "web", metav1.GetOptions{})
		if err == nil && *web.Spec.Replicas != faultPasses%3 {
			err = fmt.Errorf("web has %d replicas", *web.Spec.Replicas)
		}
		return errors.Join(append(errs, err)...)
	})
	for _, m := range bystanders {
		r.same(m)
	}
	for name, uid := range uids {
		if now := r.get(name).UID; now != uid {
			t.Errorf("%s was made anew: %s, and was %s", name, now, uid)
		}
	}
	ns, err := r.Kube.CoreV1().Namespaces().Get(t.Context(), r.NS, metav1.GetOptions{})
	if err != nil || len(ns.Labels) != 1 {
		t.Errorf("the namespace, which is nobody's, was touched: %v %v", ns.Labels, err)
	}
	r.Eventually("nothing is unknown any more", func(ctx context.Context) error {
		for b := range faultBundles {
			if st, err := r.Bundle(ctx, fmt.Sprintf("NS-b%d", b)); err != nil || st.Unknown > 0 || st.Drifted > 0 {
				return fmt.Errorf("b%d: %d unknown, %d drifted (%v)", b, st.Unknown, st.Drifted, err)
			}
		}
		return nil
	})
	r.Stop()
	for _, rec := range r.Records() {
		if rec.Status.Error != nil || rec.Status.Unknown != 0 || rec.Status.Drifted != 0 {
			t.Errorf("%s: %+v", rec.Status.Name, rec.Status)
		}
	}
}

// adopting waits until the store of the agent, as its report tells, has heard of a revision; under faults that report may be late.
// It reports whether it has, within a few seconds.
func (r *rig) adopting(revision string) bool {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 12*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if report, err := r.Applier.Report(ctx); err == nil && report.Status.DesiredRevision == revision {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

// patchLater is patch with an API server that may just have come back.
func (r *rig) patchLater(name, patch string) {
	r.t.Helper()
	r.Eventually(name+" is edited", func(ctx context.Context) error {
		_, err := r.Kube.CoreV1().ConfigMaps(r.NS).Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	})
}
