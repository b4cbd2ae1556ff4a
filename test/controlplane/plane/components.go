package plane

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	nodefast "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	podfast "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
)

// Names of the components, of their logs and pid files.
const (
	etcdName              = "etcd"
	apiServerName         = "kube-apiserver"
	controllerManagerName = "kube-controller-manager"
	schedulerName         = "kube-scheduler"
	kwokName              = "kwok"
)

// A /24 would run out after 250 Services.
const serviceRange = "10.96.0.0/16"

var serviceRangeFirst = net.IPv4(10, 96, 0, 1)

// command returns a function that makes a fresh command for one component.
func (c *Config) command(name string, args ...string) func() *exec.Cmd {
	program := c.Kwok
	if name != kwokName {
		program, args = c.Executable, append([]string{name}, args...)
	}
	return func() *exec.Cmd {
		cmd := exec.Command(program, args...) //nolint:noctx // a component ends in its own way: see process.stop
		// Clients take their field manager from the program's name, which is to be what it is on real clusters.
		cmd.Args[0] = name
		return cmd
	}
}

func (c *Config) etcd(p ports) *component {
	args := []string{"--data-dir", c.path("etcd"), "--port", strconv.Itoa(p.Etcd)}
	if c.Fsync {
		args = append(args, "--fsync")
	}
	// The only one with something to lose: it closes its data in order.
	return newComponent(c, etcdName, c.command(etcdName, args...), 5*time.Second)
}

func (c *Config) apiServer(p ports) *component {
	return newComponent(c, apiServerName, c.command(apiServerName,
		"--etcd-servers=http://127.0.0.1:"+strconv.Itoa(p.Etcd),
		"--bind-address=127.0.0.1",
		"--secure-port="+strconv.Itoa(p.APIServer),
		// The Service "kubernetes" cannot point at a loopback address, and nothing runs that would use it.
		"--endpoint-reconciler-type=none",
		"--tls-cert-file="+c.path("pki", "apiserver.crt"),
		"--tls-private-key-file="+c.path("pki", "apiserver.key"),
		"--client-ca-file="+c.path("pki", "ca.crt"),
		"--requestheader-client-ca-file="+c.path("pki", "ca.crt"),
		"--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+c.path("pki", "front-proxy.crt"),
		"--proxy-client-key-file="+c.path("pki", "front-proxy.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+c.path("pki", "service-account.pub"),
		"--service-account-signing-key-file="+c.path("pki", "service-account.key"),
		"--service-cluster-ip-range="+serviceRange,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--profiling=false",
	), 0)
}

func (c *Config) controllerManager() *component {
	return newComponent(c, controllerManagerName, c.command(controllerManagerName,
		"--kubeconfig="+c.path("components", "controller-manager"),
		"--leader-elect=false",
		"--secure-port=0",
		"--root-ca-file="+c.path("pki", "ca.crt"),
		"--service-account-private-key-file="+c.path("pki", "service-account.key"),
		"--cluster-signing-cert-file="+c.path("pki", "ca.crt"),
		"--cluster-signing-key-file="+c.path("pki", "ca.key"),
		// Simulated nodes do not die: their heartbeats only come late on a busy machine, or after the control plane was down.
		"--node-monitor-grace-period=8760h",
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--profiling=false",
	), 0)
}

func (c *Config) scheduler() *component {
	return newComponent(c, schedulerName, c.command(schedulerName,
		"--kubeconfig="+c.path("components", "scheduler"),
		"--leader-elect=false",
		"--secure-port=0",
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--profiling=false",
	), 0)
}

const nodeAnnotation = "kwok.x-k8s.io/node"

func (c *Config) kwok() *component {
	return newComponent(c, kwokName, c.command(kwokName,
		"--kubeconfig="+c.path("components", "kwok"),
		"--config="+c.path("components", "kwok-stages.yaml"),
		"--manage-all-nodes=false",
		"--manage-nodes-with-annotation-selector="+nodeAnnotation+"=fake",
		"--node-lease-duration-seconds=40",
		"--node-ip=127.0.0.1",
		"--cidr=10.0.0.1/8",
	), 0)
}

// writeComponentFiles writes what the components read at their start.
func (c *Config) writeComponentFiles(p ports) error {
	if err := c.writeKubeconfig(c.Kubeconfig, p, "admin"); err != nil {
		return err
	}
	if c.Mode == Minimal {
		return nil
	}
	for _, user := range []string{"controller-manager", "scheduler", "kwok"} {
		if err := c.writeKubeconfig(c.path("components", user), p, user); err != nil {
			return err
		}
	}
	stages := strings.Join([]string{
		nodefast.DefaultNodeInit, podfast.DefaultPodReady, podfast.DefaultPodComplete, podfast.DefaultPodDelete,
	}, "\n---\n")
	if err := os.WriteFile(c.path("components", "kwok-stages.yaml"), []byte(stages), 0o600); err != nil {
		return fmt.Errorf("write the stages of kwok: %w", err)
	}
	return nil
}
