package upgrade

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// nodeName is the node whose kubelet the test is.
const nodeName = "test-node"

// kubelet runs the containers of one node as processes: it starts them, asks for their readiness, starts them again
// when they end, and ends them with their Pods.
type kubelet struct {
	t        *testing.T
	kube     kubernetes.Interface
	admin    *rest.Config
	dir      string
	programs map[string]string // image tag → program

	// stop kills all processes and starts none any more.
	stop     func()
	removals sync.WaitGroup

	mu   sync.Mutex
	pods map[string]*container // by UID
	// brutal is what a process is sent at the end of its Pod in the place of SIGTERM.
	brutal bool
}

// container is the one process of a Pod.
type container struct {
	pod  corev1.Pod
	dir  string
	addr string
	cmd  *exec.Cmd
	// ended is closed when the process has ended.
	ended    chan struct{}
	again    time.Time
	restarts int32
	// removed is set when the Pod is being removed: its process is not started again.
	removed bool
}

func newKubelet(t *testing.T, kube kubernetes.Interface, admin *rest.Config, programs map[string]string) *kubelet {
	t.Helper()
	k := &kubelet{t: t, kube: kube, admin: admin, dir: t.TempDir(), programs: programs, pods: map[string]*container{}}
	amount := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("100"),
	}
	node, err := kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{"kubernetes.io/hostname": nodeName}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.ResourceVersion = "" // others write to it as well
	node.Status.Capacity, node.Status.Allocatable = amount, amount
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	if _, err := kube.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // the cleanups of others come before this one
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			k.look(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	k.stop = func() {
		cancel()
		<-done
		k.mu.Lock()
		for _, c := range k.pods {
			c.end(syscall.SIGKILL)
		}
		k.mu.Unlock()
		k.removals.Wait()
	}
	t.Cleanup(k.stop)
	return k
}

// look brings processes and Pods together. What fails is tried again.
func (k *kubelet) look(ctx context.Context) {
	pods, err := k.kube.CoreV1().Pods(api.SystemNamespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + nodeName})
	if err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range pods.Items {
		c := k.pods[string(p.UID)]
		if c == nil {
			dir := filepath.Join(k.dir, p.Name)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				continue
			}
			c = &container{pod: p, dir: dir, ended: make(chan struct{})}
			close(c.ended)
			k.pods[string(p.UID)] = c
		}
		if p.DeletionTimestamp != nil {
			if !c.removed {
				c.removed = true
				k.removals.Go(func() { k.remove(p, c) })
			}
			continue
		}
		if !c.running() && time.Now().After(c.again) {
			if err := k.start(ctx, c); err != nil {
				k.t.Logf("start %s: %v", p.Name, err)
			}
		}
		k.tell(ctx, p, c)
	}
}

func (c *container) running() bool {
	select {
	case <-c.ended:
		return false
	default:
		return true
	}
}

// end signals the process, and waits until it has ended.
func (c *container) end(sig syscall.Signal) {
	if c.running() {
		_ = c.cmd.Process.Signal(sig)
	}
	<-c.ended
}

// remove ends a Pod as a kubelet does.
func (k *kubelet) remove(p corev1.Pod, c *container) {
	k.mu.Lock()
	sig := syscall.SIGTERM
	if k.brutal {
		sig = syscall.SIGKILL
	}
	k.mu.Unlock()
	c.end(sig)
	_ = k.kube.CoreV1().Pods(p.Namespace).Delete(context.Background(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &p.UID}})
}

// start starts the container with the token of the Pod's service account, and no other right.
func (k *kubelet) start(ctx context.Context, c *container) error {
	spec := c.pod.Spec.Containers[0]
	program := k.programs[spec.Image[strings.LastIndex(spec.Image, ":")+1:]]
	token, err := k.kube.CoreV1().ServiceAccounts(c.pod.Namespace).CreateToken(ctx, c.pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	config := filepath.Join(c.dir, "kubeconfig")
	if err := controlplanetest.WriteKubeconfig(config, k.admin, token.Status.Token); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.addr = l.Addr().String()
	_ = l.Close()
	var args []string
	for _, a := range spec.Args {
		switch {
		case strings.HasPrefix(a, "--dir="):
			a = "--dir=" + k.data(c)
		case strings.HasPrefix(a, "--listen="):
			a = "--listen=" + c.addr
		}
		args = append(args, a)
	}
	c.cmd = exec.Command(program, append(args, "--kubeconfig="+config, "--poll=500ms")...)
	c.cmd.Env = []string{"HOME=" + c.dir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + c.dir}
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	ended, cmd := make(chan struct{}), c.cmd
	c.ended, c.again = ended, time.Now().Add(2*time.Second)
	if c.restarts++; c.restarts > 1 {
		c.again = time.Now().Add(5 * time.Second)
	}
	go func() {
		_ = cmd.Wait()
		_ = log.Close()
		close(ended)
	}()
	return nil
}

// data is where the Pod's volume is: on a claim it is the same for all Pods.
func (k *kubelet) data(c *container) string {
	for _, v := range c.pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			return filepath.Join(k.dir, "claim-"+v.PersistentVolumeClaim.ClaimName)
		}
	}
	return filepath.Join(c.dir, "data")
}

// tell writes the Pod's status.
func (k *kubelet) tell(ctx context.Context, p corev1.Pod, c *container) {
	ready := corev1.ConditionFalse
	status := corev1.ContainerStatus{Name: "agent", Image: p.Spec.Containers[0].Image, RestartCount: max(0, c.restarts-1)}
	if c.running() {
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.Now()}
		if c.ready(ctx) {
			ready, status.Ready = corev1.ConditionTrue, true
		}
	} else {
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off restarting failed container"}
		if c.cmd != nil {
			status.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: int32(c.cmd.ProcessState.ExitCode()), Reason: "Error"}
		}
	}
	if old := p.Status.ContainerStatuses; len(old) == 1 && old[0].Ready == status.Ready && old[0].RestartCount == status.RestartCount && (old[0].State.Waiting == nil) == (status.State.Waiting == nil) {
		return
	}
	p.Status.Phase, p.Status.ContainerStatuses = corev1.PodRunning, []corev1.ContainerStatus{status}
	var kept []corev1.PodCondition
	for _, cond := range p.Status.Conditions {
		if cond.Type != corev1.PodReady && cond.Type != corev1.ContainersReady {
			kept = append(kept, cond)
		}
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		kept = append(kept, corev1.PodCondition{Type: kind, Status: ready, LastTransitionTime: metav1.Now()})
	}
	p.Status.Conditions = kept
	_, _ = k.kube.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, &p, metav1.UpdateOptions{})
}

// ready asks the container's readiness probe.
func (c *container) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.addr+"/readyz", nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// running lists the processes of an image's tag.
func (k *kubelet) running(tag string) []*container {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*container
	for _, c := range k.pods {
		if c.running() && strings.HasSuffix(c.pod.Spec.Containers[0].Image, ":"+tag) {
			out = append(out, c)
		}
	}
	return out
}

// kill kills the processes of an image's tag, as a node does that has no memory left.
func (k *kubelet) kill(tag string) int {
	all := k.running(tag)
	for _, c := range all {
		c.end(syscall.SIGKILL)
	}
	return len(all)
}

// brutally says whether processes are killed at the end of their Pods, rather than asked to end.
func (k *kubelet) brutally(yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.brutal = yes
}

// said is what all processes have written.
func (k *kubelet) said() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(k.dir, "*", "log"))
	for _, f := range files {
		data, _ := os.ReadFile(f)
		b.Write(data)
	}
	return b.String()
}

// logs are the last lines of every process, for a test that failed.
func (k *kubelet) logs() string {
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(k.dir, "*", "log"))
	for _, f := range files {
		data, _ := os.ReadFile(f)
		lines := strings.Split(string(data), "\n")
		fmt.Fprintf(&b, "%s:\n%s\n", filepath.Base(filepath.Dir(f)), strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
	return b.String()
}
