package child_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/test/controlplane/child"
)

// role turns the test binary into one of the processes of a test.
const role = "CHILD_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "parent":
		parent()
	case "child":
		child.ExitWithParent()
		select {}
	default:
		os.Exit(m.Run())
	}
}

// parent starts one child that watches the pipe and one that knows nothing of it, and waits to be killed.
func parent() {
	spawner, err := child.NewSpawner()
	if err != nil {
		panic(err)
	}
	for _, cmd := range []*exec.Cmd{exec.Command(os.Args[0]), exec.Command("sleep", "600")} {
		cmd.Env = append(os.Environ(), role+"=child")
		if err := spawner.Start(cmd); err != nil {
			panic(err)
		}
		fmt.Println(cmd.Process.Pid)
	}
	select {}
}

func TestSpawner_childrenDieWithAKilledParent(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), role+"=parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var children []int
	for lines := bufio.NewScanner(out); len(children) < 2 && lines.Scan(); {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		children = append(children, pid)
	}
	if len(children) != 2 {
		t.Fatalf("started %v, want two children", children)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, pid := range children {
		wantGone(t, pid)
	}
}

func TestSpawner_closeEndsChildrenThatWatch(t *testing.T) {
	spawner, err := child.NewSpawner()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), role+"=child")
	if err := spawner.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := spawner.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "exit status 1" {
		t.Errorf("the child ended with %v, want exit status 1", err)
	}
}

func wantGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil && syscall.Kill(pid, 0) != nil {
			return
		}
		if _, state, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(state, "Z") {
			return
		}
	}
	t.Errorf("process %d is alive", pid)
}
