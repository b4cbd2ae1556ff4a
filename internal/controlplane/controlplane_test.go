package controlplane_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/flotilla-fleet/flotilla/internal/controlplane"
	"github.com/flotilla-fleet/flotilla/internal/controlplane/controlplanetest"
)

// orphanDir makes the test binary start a control plane in this directory and wait to be killed.
const orphanDir = "CONTROLPLANE_TEST_ORPHAN_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(orphanDir); dir != "" {
		os.Exit(startAndWait(dir))
	}
	os.Exit(controlplanetest.Main(m))
}

func startAndWait(dir string) int {
	_, err := controlplane.Start(context.Background(), controlplane.Config{Dir: dir, Progress: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	select {}
}

func TestStart_deploymentBecomesAvailable(t *testing.T) {
	ns := controlplanetest.Namespace(t)
	client := clientset(t, controlplanetest.RESTConfig(t))
	labels := map[string]string{"app": "web"}
	replicas := int32(3)
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "example.com/web:1"}}},
			},
		},
	}
	if _, err := client.AppsV1().Deployments(ns).Create(t.Context(), deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three replicas to be available", func() error {
		d, err := client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != 3 {
			err = fmt.Errorf("%d replicas are available", d.Status.AvailableReplicas)
		}
		return err
	})

	// The garbage collector removes what belonged to a deleted owner.
	background := metav1.DeletePropagationBackground
	err := client.AppsV1().Deployments(ns).Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pods to be gone", func() error {
		pods, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(pods.Items))
		}
		return err
	})
}

func TestStart_namespaceIsDeleted(t *testing.T) {
	client := clientset(t, controlplanetest.RESTConfig(t))
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "short-lived"}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Namespaces().Delete(t.Context(), ns.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace to be gone", func() error {
		_, err := client.CoreV1().Namespaces().Get(t.Context(), ns.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}

func TestStart_serviceAccountTokenWorksAndHasNoRights(t *testing.T) {
	ns := controlplanetest.Namespace(t)
	cfg := controlplanetest.RESTConfig(t)
	admin := clientset(t, cfg)
	token, err := admin.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg = rest.AnonymousClientConfig(cfg)
	cfg.BearerToken = token.Status.Token
	client := clientset(t, cfg)
	who, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := who.Status.UserInfo.Username, "system:serviceaccount:"+ns+":default"; got != want {
		t.Errorf("the token belongs to %q, want %q", got, want)
	}
	if _, err := client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list secrets with the token: got %v, want forbidden", err)
	}
}

func TestStart_sameDirectoryAgain(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *controlplane.ControlPlane){
		"after Stop": func(t *testing.T, p *controlplane.ControlPlane) {
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		},
		"after Kill": func(_ *testing.T, p *controlplane.ControlPlane) { p.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			plane := controlplanetest.New(t, controlplane.Config{Dir: dir, Mode: controlplane.Minimal})
			client := clientset(t, controlplanetest.RESTConfigOf(t, plane))
			created := createConfigMap(t, client, "kept")
			end(t, plane)
			wantGone(t, dir)

			controlplanetest.New(t, controlplane.Config{Dir: dir, Mode: controlplane.Minimal})
			// The client of the first life still has the right address and certificates.
			got, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got.UID != created.UID {
				t.Errorf("the object has UID %q, want %q", got.UID, created.UID)
			}
		})
	}
}

func TestKillAPIServer(t *testing.T) {
	t.Parallel()
	plane := controlplanetest.New(t, controlplane.Config{Mode: controlplane.Minimal})
	client := clientset(t, controlplanetest.RESTConfigOf(t, plane))
	createConfigMap(t, client, "kept")

	if err := plane.KillAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("list while the API server is down: got %v, want connection refused", err)
	}
	if err := plane.KillAPIServer(t.Context()); err == nil || !strings.Contains(err.Error(), "kube-apiserver is down already") {
		t.Errorf("kill it again: got %v", err)
	}
	if err := plane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if err := plane.StartAPIServer(t.Context()); err == nil || !strings.Contains(err.Error(), "kube-apiserver runs already") {
		t.Errorf("start it again: got %v", err)
	}

	// Killed by somebody else, it comes back by itself.
	if err := syscall.Kill(mustPids(t, plane.Dir())["kube-apiserver"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the API server to come back", func() error {
		_, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{})
		return err
	})
}

func TestControlPlane_endsWithItsParent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), orphanDir+"="+dir)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the parent said %q, %v", line, err)
	}
	if got := len(mustPids(t, dir)); got != 6 {
		t.Errorf("%d processes run, want 6", got)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	wantGone(t, dir)
}

// The processes below must not depend on their parent being able to say good-bye.
func TestControlPlane_componentsEndWhenTheSupervisorIsKilled(t *testing.T) {
	t.Parallel()
	plane := controlplanetest.New(t, controlplane.Config{})
	all := mustPids(t, plane.Dir())
	if err := syscall.Kill(all["controlplane"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantGone(t, plane.Dir())
	select {
	case <-plane.Done():
	case <-time.After(time.Minute):
		t.Error("Done is not closed")
	}
}

func TestStart_failureShowsTheLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "etcd"), []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := controlplane.Start(t.Context(), controlplane.Config{Dir: dir})
	if err == nil {
		t.Fatal("started without a place for its data")
	}
	for _, want := range []string{"etcd ended during start-up", "end of " + filepath.Join(dir, "logs", "etcd.log"), "not a directory"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestStart_busyPortIsNamed(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	_, err = controlplane.Start(t.Context(), controlplane.Config{Dir: t.TempDir(), Port: port})
	if want := fmt.Sprintf("port %d is needed", port); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
}

func TestStart_directoryIsRequired(t *testing.T) {
	_, err := controlplane.Start(t.Context(), controlplane.Config{})
	if want := "start control plane: Dir is required"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

func clientset(t *testing.T, cfg *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func createConfigMap(t *testing.T, client *kubernetes.Clientset, name string) *corev1.ConfigMap {
	t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	created, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func mustPids(t *testing.T, dir string) map[string]int {
	t.Helper()
	all, err := pids(dir)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// pids returns the process ids of a control plane by component.
func pids(dir string) (map[string]int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "run", "*.pid"))
	if err != nil {
		return nil, err
	}
	all := make(map[string]int)
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			return nil, err
		}
		all[strings.TrimSuffix(filepath.Base(path), ".pid")] = pid
	}
	return all, nil
}

func wantGone(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "all processes to be gone", func() error {
		all, err := pids(dir)
		left := []error{err}
		for name, pid := range all {
			if alive(pid) {
				left = append(left, fmt.Errorf("%s is alive", name))
			}
		}
		return errors.Join(left...)
	})
}

// alive tells whether a process runs; one that only waits to be collected by its new parent does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("wait for %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
