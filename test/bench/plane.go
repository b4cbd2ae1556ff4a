package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	flowv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/flotilla-fleet/flotilla/internal/controlplane"
)

// The service accounts of the agent and of the bare client: nobody else's requests count as the agent's.
// Both show a token, as an agent in a cluster does: what it costs the API server to know who asks is the same for both.
const (
	accountsNamespace = "kube-system"
	agentAccount      = "flotilla-agent"
	bareAccount       = "bare-client"
	userPrefix        = "system:serviceaccount:" + accountsNamespace + ":"
)

// plane is a control plane that counts the agent's requests.
type plane struct {
	*controlplane.ControlPlane
	config  *rest.Config
	bare    *rest.Config // the bare client's
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	// agentConfig is a kubeconfig for the agent.
	agentConfig string
}

func startPlane(ctx context.Context, dir string, progress io.Writer) (*plane, error) {
	cp, err := controlplane.Start(ctx, controlplane.Config{Dir: filepath.Join(dir, "plane"), Progress: progress})
	if err != nil {
		return nil, err
	}
	p := &plane{ControlPlane: cp, agentConfig: filepath.Join(dir, "agent.kubeconfig")}
	if err := p.prepare(ctx); err != nil {
		_ = p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *plane) prepare(ctx context.Context) (err error) {
	if p.config, err = clientcmd.BuildConfigFromFlags("", p.Kubeconfig()); err != nil {
		return err
	}
	p.config.QPS = -1
	if p.kube, err = kubernetes.NewForConfig(p.config); err != nil {
		return err
	}
	if p.dynamic, err = dynamic.NewForConfig(p.config); err != nil {
		return err
	}
	if p.bare, err = p.account(ctx, bareAccount); err != nil {
		return err
	}
	agent, err := p.account(ctx, agentAccount)
	if err != nil {
		return err
	}
	if err := p.writeAgentConfig(agent.BearerToken); err != nil {
		return err
	}
	if err := p.count(ctx); err != nil {
		return err
	}
	return p.namespace(ctx, agentNamespace)
}

// account makes a service account that may do everything, and says how to be it.
func (p *plane) account(ctx context.Context, name string) (*rest.Config, error) {
	accounts := p.kube.CoreV1().ServiceAccounts(accountsNamespace)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	_, err := p.kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: accountsNamespace, Name: name}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	day := int64(24 * 60 * 60)
	token, err := accounts.CreateToken(ctx, name, &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &day}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	cfg := rest.AnonymousClientConfig(p.config)
	cfg.QPS, cfg.BearerToken = -1, token.Status.Token
	return cfg, nil
}

// writeAgentConfig writes the agent's kubeconfig.
func (p *plane) writeAgentConfig(token string) error {
	c, err := clientcmd.LoadFromFile(p.Kubeconfig())
	if err != nil {
		return err
	}
	for name := range c.AuthInfos {
		c.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	}
	return clientcmd.WriteToFile(*c, p.agentConfig)
}

func (p *plane) namespace(ctx context.Context, name string) error {
	_, err := p.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}

// removeNamespace deletes a namespace and waits until all that was in it is gone.
func (p *plane) removeNamespace(ctx context.Context, name string) error {
	if err := p.kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	for {
		_, err := p.kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// The columns of requests. The API server counts requests by the flow schema that they fall under,
// so a flow schema for each verb, for the agent alone, makes it count the agent's requests by verb.
var verbs = []string{"get", "list", "watch", "create", "patch", "update", "delete"}

const (
	schemaPrefix = "bench-"
	leaseVerb    = "lease"
	otherVerb    = "other"
	dryRunVerb   = "dry run"
)

func (p *plane) count(ctx context.Context) error {
	any := []string{"*"}
	rule := func(account string, verbs, groups, resources []string) flowv1.PolicyRulesWithSubjects {
		return flowv1.PolicyRulesWithSubjects{
			Subjects: []flowv1.Subject{{Kind: flowv1.SubjectKindUser, User: &flowv1.UserSubject{Name: userPrefix + account}}},
			ResourceRules: []flowv1.ResourcePolicyRule{{
				Verbs: verbs, APIGroups: groups, Resources: resources, ClusterScope: true, Namespaces: any,
			}},
		}
	}
	add := func(name string, precedence int32, r flowv1.PolicyRulesWithSubjects) error {
		// Exempt: nobody waits for a turn.
		_, err := p.kube.FlowcontrolV1().FlowSchemas().Create(ctx, &flowv1.FlowSchema{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: flowv1.FlowSchemaSpec{
				PriorityLevelConfiguration: flowv1.PriorityLevelConfigurationReference{Name: "exempt"},
				MatchingPrecedence:         precedence, Rules: []flowv1.PolicyRulesWithSubjects{r},
			},
		}, metav1.CreateOptions{})
		return err
	}
	if err := add(bareAccount, 10, rule(bareAccount, any, any, any)); err != nil {
		return err
	}
	if err := add(schemaPrefix+leaseVerb, 10, rule(agentAccount, any, []string{"coordination.k8s.io"}, []string{"leases"})); err != nil {
		return err
	}
	for _, v := range verbs {
		if err := add(schemaPrefix+v, 20, rule(agentAccount, []string{v}, any, any)); err != nil {
			return err
		}
	}
	other := rule(agentAccount, any, any, any)
	other.NonResourceRules = []flowv1.NonResourcePolicyRule{{Verbs: any, NonResourceURLs: any}}
	return add(schemaPrefix+otherVerb, 30, other)
}

// requests are the agent's so far, by verb; dry runs are counted among the patches, too.
func (p *plane) requests(ctx context.Context) (map[string]int, error) {
	raw, err := p.kube.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("metrics of the API server: %w", err)
	}
	out := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), "{")
		verb := ""
		switch name {
		case "apiserver_flowcontrol_dispatched_requests_total":
			schema := label(rest, "flow_schema")
			var ours bool
			if verb, ours = strings.CutPrefix(schema, schemaPrefix); !ours {
				continue
			}
		case "apiserver_request_total":
			if label(rest, "dry_run") == "" {
				continue
			}
			verb = dryRunVerb
		default:
			continue
		}
		n, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics of the API server: %q: %w", lines.Text(), err)
		}
		out[verb] += int(n)
	}
	return out, lines.Err()
}

// label is the value of a label in a line of metrics.
func label(text, name string) string {
	_, after, _ := strings.Cut(text, name+`="`)
	value, _, _ := strings.Cut(after, `"`)
	return value
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
