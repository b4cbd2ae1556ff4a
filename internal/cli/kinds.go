package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/suggest"
)

// namedObject is an object as somebody typed it.
type namedObject struct {
	text string
	kind string // as it was typed
	// refs are what it may be: one for each kind that is called so, the likeliest first.
	// Where the kind could not be looked up, it is one with the kind as it was typed.
	refs []api.ObjectRef
	// known is whether the kind was looked up and found; unknown is why it was not.
	known   bool
	unknown error
}

var isVersion = regexp.MustCompile(`^v[0-9]+((alpha|beta)[0-9]+)?$`)

// parseObject reads KIND/NAMESPACE/NAME or KIND/NAME. The kind is not looked up yet: it may be followed by a group.
func parseObject(text string) (namedObject, error) {
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return namedObject{}, usagef("%q is not an object: write KIND/NAMESPACE/NAME, such as deploy/podinfo/podinfo, or KIND/NAME for what is in no namespace", text)
	}
	kind, group, _ := strings.Cut(parts[0], ".")
	if version, rest, found := strings.Cut(group, "."); found && isVersion.MatchString(version) {
		group = rest // as kubectl takes it: KIND.VERSION.GROUP
	}
	ref := api.ObjectRef{Kind: kind, Group: group, Name: parts[len(parts)-1]}
	if len(parts) == 3 {
		ref.Namespace = parts[1]
	}
	return namedObject{text: text, kind: parts[0], refs: []api.ObjectRef{ref}}, nil
}

// is reports whether an object is the one that was named. A kind without a group means any group;
// one that is not known is taken for the kind, or for its plural, in any case.
func (n namedObject) is(ref api.ObjectRef) bool {
	return slices.ContainsFunc(n.refs, func(r api.ObjectRef) bool {
		return r.Name == ref.Name && r.Namespace == ref.Namespace && calls(r.Kind, ref.Kind) && (r.Group == "" || r.Group == ref.Group)
	})
}

// calls reports whether a word is a kind, or its plural.
func calls(word, kind string) bool {
	return strings.EqualFold(word, kind) || strings.EqualFold(word, plural(kind))
}

func plural(kind string) string {
	many, _ := meta.UnsafeGuessKindToResource(schema.GroupVersionKind{Version: "v1", Kind: kind})
	return many.Resource
}

// take keeps of the kinds that an object's may be those that fit its form: with a namespace, or without.
func (n namedObject) take(found []knownKind) (namedObject, error) {
	was := n.refs[0]
	n.refs = nil
	for _, k := range found {
		if k.namespaced == (was.Namespace != "") {
			n.refs = append(n.refs, api.ObjectRef{Group: k.Group, Kind: k.Kind, Namespace: was.Namespace, Name: was.Name})
		}
	}
	switch {
	case len(n.refs) > 0:
		n.known = true
		return n, nil
	case found[0].namespaced:
		return n, usagef("%s is in a namespace: write %s/NAMESPACE/%s", found[0].Kind, n.kind, was.Name)
	default:
		return n, usagef("%s is in no namespace: write %s/%s", found[0].Kind, n.kind, was.Name)
	}
}

// knownKind is a kind that some API server has.
type knownKind struct {
	schema.GroupKind
	namespaced bool
}

// kinds are those of one cluster, by the names that kubectl takes: kind, plural and short name, in any case,
// with or without the group.
type kinds struct {
	mapper    meta.RESTMapper
	discovery discovery.CachedDiscoveryInterface
}

func (k kube) kinds() (*kinds, error) {
	cfg, err := k.rest()
	if err != nil {
		return nil, err
	}
	cfg.WarningHandler = rest.NoWarnings{}
	client, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, err
	}
	cached := memory.NewMemCacheClient(client)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cached)
	return &kinds{mapper: restmapper.NewShortcutExpander(mapper, cached, func(string) {}), discovery: cached}, nil
}

// object looks up what somebody typed. A kind that the cluster does not have, or that cannot be looked up, is unknown.
func (k *kinds) object(text string) (namedObject, error) {
	n, err := parseObject(text)
	if err != nil {
		return n, err
	}
	found, err := k.called(n.kind)
	if err != nil {
		n.unknown = &api.Error{Kind: api.Stalled, Reason: "NoDiscovery", Err: fmt.Errorf("look up the kind %q: %w", n.kind, err)}
		return n, nil
	}
	if len(found) == 0 {
		n.unknown = k.noKind(n.kind)
		return n, nil
	}
	return n.take(found)
}

// called returns the kinds that go by a name. None is no error.
func (k *kinds) called(name string) ([]knownKind, error) {
	full, short := schema.ParseResourceArg(strings.ToLower(name))
	var gvks []schema.GroupVersionKind
	for _, gvr := range []*schema.GroupVersionResource{full, new(short.WithVersion(""))} {
		if gvr == nil || len(gvks) > 0 {
			continue
		}
		more, err := k.mapper.KindsFor(*gvr)
		if err != nil && !meta.IsNoMatchError(err) {
			return nil, err
		}
		gvks = more
	}
	var out []knownKind
	for _, gvk := range gvks {
		if slices.ContainsFunc(out, func(o knownKind) bool { return o.GroupKind == gvk.GroupKind() }) {
			continue
		}
		m, err := k.mapper.RESTMapping(gvk.GroupKind())
		if err != nil {
			return nil, err
		}
		out = append(out, knownKind{gvk.GroupKind(), m.Scope.Name() == meta.RESTScopeNameNamespace})
	}
	return out, nil
}

// noKind says that the cluster has no such kind, and which may be meant.
func (k *kinds) noKind(name string) error {
	_, lists, _ := k.discovery.ServerGroupsAndResources() // what did not answer is not guessed
	var names []string
	for _, l := range lists {
		for _, r := range l.APIResources {
			if !strings.Contains(r.Name, "/") {
				names = append(append(names, r.Kind, r.Name), r.ShortNames...)
			}
		}
	}
	slices.Sort(names)
	e := &api.Error{Kind: api.Stalled, Reason: "NoSuchKind", Err: fmt.Errorf("the cluster has no kind %q", name), Hint: "kubectl api-resources lists the kinds"}
	word, _, _ := strings.Cut(name, ".")
	if meant := suggest.Near(word, slices.Compact(names)); len(meant) > 0 {
		e.Hint = "do you mean " + strings.Join(meant, " or ") + "?"
	}
	return e
}

// commonKinds are those that every cluster has, with the short names of kubectl, for where no cluster is asked.
var commonKinds = []struct {
	group, kind, short string
	clusterwide        bool
}{
	{"", "ConfigMap", "cm", false},
	{"", "Endpoints", "ep", false},
	{"", "LimitRange", "limits", false},
	{"", "Namespace", "ns", true},
	{"", "Node", "no", true},
	{"", "PersistentVolume", "pv", true},
	{"", "PersistentVolumeClaim", "pvc", false},
	{"", "Pod", "po", false},
	{"", "ReplicationController", "rc", false},
	{"", "ResourceQuota", "quota", false},
	{"", "Secret", "", false},
	{"", "Service", "svc", false},
	{"", "ServiceAccount", "sa", false},
	{"admissionregistration.k8s.io", "MutatingWebhookConfiguration", "", true},
	{"admissionregistration.k8s.io", "ValidatingAdmissionPolicy", "", true},
	{"admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", "", true},
	{"admissionregistration.k8s.io", "ValidatingWebhookConfiguration", "", true},
	{"apiextensions.k8s.io", "CustomResourceDefinition", "crd", true},
	{"apiregistration.k8s.io", "APIService", "", true},
	{"apps", "DaemonSet", "ds", false},
	{"apps", "Deployment", "deploy", false},
	{"apps", "ReplicaSet", "rs", false},
	{"apps", "StatefulSet", "sts", false},
	{"autoscaling", "HorizontalPodAutoscaler", "hpa", false},
	{"batch", "CronJob", "cj", false},
	{"batch", "Job", "", false},
	{"networking.k8s.io", "Ingress", "ing", false},
	{"networking.k8s.io", "IngressClass", "", true},
	{"networking.k8s.io", "NetworkPolicy", "netpol", false},
	{"policy", "PodDisruptionBudget", "pdb", false},
	{"rbac.authorization.k8s.io", "ClusterRole", "", true},
	{"rbac.authorization.k8s.io", "ClusterRoleBinding", "", true},
	{"rbac.authorization.k8s.io", "Role", "", false},
	{"rbac.authorization.k8s.io", "RoleBinding", "", false},
	{"scheduling.k8s.io", "PriorityClass", "pc", true},
	{"storage.k8s.io", "StorageClass", "sc", true},
}

// commonly looks up what somebody typed where no cluster is asked. A kind that not every cluster has stays as it is typed.
func (n namedObject) commonly() (namedObject, error) {
	word, group := n.refs[0].Kind, n.refs[0].Group
	var found []knownKind
	for _, k := range commonKinds {
		if (calls(word, k.kind) || k.short != "" && strings.EqualFold(word, k.short)) && (group == "" || group == k.group) {
			found = append(found, knownKind{schema.GroupKind{Group: k.group, Kind: k.kind}, !k.clusterwide})
		}
	}
	if len(found) == 0 {
		return n, nil
	}
	taken, err := n.take(found)
	if group == "" {
		for i := range taken.refs { // another group may have a kind of that name
			taken.refs[i].Group = ""
		}
	}
	return taken, err
}
