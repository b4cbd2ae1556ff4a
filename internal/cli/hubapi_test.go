package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// run runs a command line and returns what it wrote.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	code = Execute(t.Context(), args, IO{In: strings.NewReader(""), Out: &out, Err: &talk})
	return code, out.String(), talk.String()
}

// tokenFile holds the token of every hub of hubtest.
func tokenFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(hubtest.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A fleet that is larger than the hub's largest page is shown whole, the most urgent clusters first.
func TestStatus_wholeFleet(t *testing.T) {
	const n = view.MaxPageSize + 3
	dir, now := t.TempDir(), time.Now()
	if err := hubtest.Seed(dir, n, now); err != nil {
		t.Fatal(err)
	}
	h := hubtest.Start(t, hub.Config{DataDir: dir, Now: func() time.Time { return now }})
	code, stdout, stderr := run(t, "status", "--hub", h.URL(), "--hub-token-file", tokenFile(t), "-o", "json")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var list view.List[view.Cluster]
	if err := json.Unmarshal([]byte(stdout), &list); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for i, c := range list.Items {
		names[c.Name] = true
		if i > 0 && list.Items[i-1].State.Urgency() > c.State.Urgency() {
			t.Errorf("%s, which is %s, comes after %s, which is %s", c.Name, c.State, list.Items[i-1].Name, list.Items[i-1].State)
		}
	}
	if len(list.Items) != n || len(names) != n || list.Total != n || list.Fleet.Clusters != n {
		t.Errorf("%d clusters, %d names, total %d, %d in the sum; want %d of each", len(list.Items), len(names), list.Total, list.Fleet.Clusters, n)
	}
}

// A hub whose certificate comes from an authority of one's own is trusted if the authority is named.
func TestHubCAFile(t *testing.T) {
	t.Setenv("FLOTILLA_HUB_CA_FILE", "")
	dir := t.TempDir()
	cert, key := hubtest.Certificate(t, dir)
	h := hubtest.Start(t, hub.Config{HTTPCertFile: cert, HTTPKeyFile: key})
	token, empty := tokenFile(t), filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other, _ := hubtest.Certificate(t, t.TempDir())
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--hub-ca-file", cert}, 0, ""},
		{nil, 5, "--hub-ca-file"},
		{[]string{"--hub-ca-file", other}, 5, "certificate"},
		{[]string{"--hub-ca-file", empty}, 64, "holds no certificate"},
		{[]string{"--hub-ca-file", filepath.Join(dir, "missing")}, 64, "--hub-ca-file"},
	} {
		args := append([]string{"status", "--hub", h.URL(), "--hub-token-file", token}, c.args...)
		if code, _, stderr := run(t, args...); code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%q: exit code %d, want %d: %s", c.args, code, c.code, stderr)
		}
	}
	for _, command := range []string{"status", "drift", "drift show", "history", "sync", "join"} {
		_, help, _ := run(t, append(strings.Fields(command), "--help")...)
		if !strings.Contains(help, "--hub-ca-file") {
			t.Errorf("flotilla %s does not take --hub-ca-file", command)
		}
	}
	t.Setenv("FLOTILLA_HUB_CA_FILE", cert)
	if code, _, stderr := run(t, "status", "--hub", h.URL(), "--hub-token-file", token); code != 0 {
		t.Errorf("with $FLOTILLA_HUB_CA_FILE: %s", fmt.Sprint(code, " ", stderr))
	}
}

// What the hub is given wrongly is an error with the place of the mistake, and no token stands in it.
func TestHub_refusesMistakes(t *testing.T) {
	const secret = "a-token-of-a-person"
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte("# people\nann "+secret+" admin\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--trusted-proxy", "proxy.example.com"}, 64, "--trusted-proxy"},
		{[]string{"--tokens-file", tokens}, 3, tokens + ": line 2"},
		{[]string{"--tokens-file", tokens + ".missing"}, 3, "no such file"},
		{[]string{"--public-url", "hub.example.com"}, 64, "PublicURL"},
		{[]string{"--tls-cert", tokens}, 64, "belong together"},
	} {
		args := append([]string{"hub", "--dir", t.TempDir(), "--listen", "127.0.0.1:0", "--agent-listen", "127.0.0.1:0"}, c.args...)
		code, _, stderr := run(t, args...)
		if code != c.code || !strings.Contains(stderr, c.says) || strings.Contains(stderr, secret) {
			t.Errorf("%q: exit code %d, want %d: %s", c.args, code, c.code, stderr)
		}
	}
}

// A join file is there whole, or not at all: a token that could not be kept is not made.
func TestJoin_file(t *testing.T) {
	h := hubtest.Start(t, hub.Config{Hosts: []string{"hub.example.com"}})
	out := filepath.Join(t.TempDir(), "join.json")
	join := func(cluster string, more ...string) (int, string) {
		t.Helper()
		code, _, stderr := run(t, append([]string{"join", "--hub", h.URL(), "--hub-token-file", tokenFile(t), "--cluster", cluster, "--out", out}, more...)...)
		return code, stderr
	}
	if code, stderr := join("prod-eu"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	made, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(made), "https://hub.example.com:") {
		t.Errorf("the join file says %s, %v", made, err)
	}
	if code, stderr := join("prod-us"); code == 0 || !strings.Contains(stderr, "exists") {
		t.Errorf("over another join file: exit code %d: %s", code, stderr)
	}
	if n := len(hubtest.Get[struct{ Items []any }](h, "/api/v1/join-tokens").Items); n != 1 {
		t.Errorf("%d join tokens, and one file", n)
	}
	if err := os.Remove(out); err != nil {
		t.Fatal(err)
	}
	h.Stop()
	if code, stderr := join("prod-eu"); code != 5 {
		t.Errorf("without a hub: exit code %d: %s", code, stderr)
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("a hub that does not answer leaves a file: %v", err)
	}
}
