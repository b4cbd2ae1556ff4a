package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/flotilla-fleet/flotilla/hub"
	"github.com/flotilla-fleet/flotilla/hub/client"
	"github.com/flotilla-fleet/flotilla/hub/hubtest"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// A renewal does not make an agent forget what it joined with: it would join again with a token that is used up.
func TestRenewalKeepsWhatWasJoinedWith(t *testing.T) {
	h := hubtest.Start(t, hub.Config{CertificateLife: 10 * time.Second})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(h)
	before, err := client.LoadIdentity(a.IdentityDir())
	if err != nil || before.Joined == "" {
		t.Fatalf("identity is %+v, %v", before, err)
	}
	a.Run()
	// It is whole and the same agent's at every moment, also while it is replaced.
	var broken error
	hubtest.Eventually(t, "a later end", func() bool {
		id, err := client.LoadIdentity(a.IdentityDir())
		if err != nil || id.Joined != before.Joined || id.URL != before.URL {
			broken = fmt.Errorf("identity became %+v, %w", id, err)
		}
		return broken != nil || id.NotAfter.After(before.NotAfter)
	})
	if broken != nil {
		t.Fatal(broken)
	}
}

// Each identity is kept before the hub sees it, also one that a renewal made; a failure is tried again and holds nothing up.
func TestIdentityIsKept(t *testing.T) {
	h := hubtest.Start(t, hub.Config{CertificateLife: 10 * time.Second})
	var mu sync.Mutex
	var kept [][]byte
	calls := 0
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{Keep: func(_ context.Context, identity []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls == 1 {
			return errors.New("the API server is away")
		}
		kept = append(kept, slices.Clone(identity))
		return nil
	}})
	a.MustJoin(h)
	a.Run()
	hubtest.Eventually(t, "connected, though it was not kept", func() bool { return a.Client.Status().Connected })
	hubtest.Eventually(t, "a second renewal is kept", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(kept) >= 2
	})
	a.Stop()
	mu.Lock()
	defer mu.Unlock()
	for i := range kept[1:] {
		if bytes.Equal(kept[i], kept[i+1]) {
			t.Error("what is kept already was kept again")
		}
	}
	adopted := ""
	dir := t.TempDir()
	if err := client.RestoreIdentity(dir, "prod-eu", kept[1], func(id string) error { adopted = id; return nil }); err != nil {
		t.Fatal(err)
	}
	if id, err := client.LoadIdentity(dir); err != nil || id.AgentID != a.Store.AgentID() || adopted != id.AgentID {
		t.Errorf("restored %+v as %q, %v", id, adopted, err)
	}
	refuses := func(what, cluster string, file []byte, adopt error) {
		t.Helper()
		dir := t.TempDir()
		if err := client.RestoreIdentity(dir, cluster, file, func(string) error { return adopt }); err == nil {
			t.Errorf("%s: restored", what)
		}
		if _, err := client.LoadIdentity(dir); !errors.Is(err, client.ErrNoIdentity) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refuses("of another cluster", "prod-us", kept[0], nil)
	refuses("cut off", "prod-eu", kept[0][:len(kept[0])/2], nil)
	refuses("not agreed to", "prod-eu", kept[0], errors.New("it has made reports"))
}

// A Client that runs changes over to the hub that it joins, at once, and leaves no half-written file.
func TestClientJoinsAnotherHub(t *testing.T) {
	from, to := hubtest.Start(t, hub.Config{}), hubtest.Start(t, hub.Config{})
	a := hubtest.NewAgent(t, "prod-eu", hubtest.AgentOptions{})
	a.MustJoin(from)
	a.Run()
	hubtest.Eventually(t, "connected", func() bool { return a.Client.Status().Connected })
	m, err := to.CreateJoinToken(t.Context(), hub.JoinTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	join := client.JoinConfig{URL: m.URL, Token: m.Token, CAHash: from.CAHash()}
	if err := a.Client.Join(t.Context(), join); err == nil {
		t.Fatal("joined a hub that is not the one in the pin")
	}
	if id, err := client.LoadIdentity(a.IdentityDir()); err != nil || id.URL != "https://"+from.AgentAddr() {
		t.Fatalf("a refused join left %+v, %v", id, err)
	}
	join.CAHash = to.CAHash()
	if err := a.Client.Join(t.Context(), join); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	a.Commit(hubtest.Status("prod-eu", "2222222222222222222222222222222222222222"))
	hubtest.Eventually(t, "the other hub hears from it", func() bool {
		cs := hubtest.Get[view.List[view.Cluster]](to, "/api/v1/clusters").Items
		return len(cs) == 1 && cs[0].Connected
	})
	t.Logf("changed over in %s", time.Since(begun))
	if files, err := filepath.Glob(filepath.Join(a.IdentityDir(), "*")); err != nil || len(files) != 1 {
		t.Errorf("the identity's directory holds %q, %v", files, err)
	}
}
