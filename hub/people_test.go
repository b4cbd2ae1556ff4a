package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseTokens(t *testing.T) {
	const secret = "a-token-of-a-person"
	for _, c := range []struct{ content, want string }{
		{"", ""},
		{"# nobody\n\n  \t\n", ""},
		{"ann admin " + secret, "ann/admin"},
		{"  ann\tviewer   " + secret + " \r\n# old\nann operator another-" + secret + "\nbob viewer bobs-" + secret, "ann/viewer ann/operator bob/viewer"},
		{"zoë admin " + secret, "zoë/admin"},
		{"ann admin", "line 1: a line is NAME ROLE TOKEN, and this has 2 words"},
		{"\nann admin " + secret + " more", "line 2: a line is NAME ROLE TOKEN, and this has 4 words"},
		{"ann " + secret + " admin", "line 1: the second word is not one of the roles viewer, operator, admin"},
		{secret + " boss ann", "line 1: the second word is not one of the roles viewer, operator, admin"},
		{"ann admin short", `line 1: the token of "ann" is shorter than 16 characters`},
		{"ann admin " + secret + "\nbob viewer " + secret, `line 2: "bob" has the token of "ann": the audit log could not tell them apart`},
		{"\x1b[2Jann admin " + secret, "line 1: the name of a token is at most 64 printable characters"},
		{strings.Repeat("n", 65) + " admin " + secret, "line 1: the name of a token is at most 64 printable characters"},
		{"\xff admin " + secret, "line 1: the name of a token is at most 64 printable characters"},
		{"ann admin " + strings.Repeat("x", 1<<17), "line 1: bufio.Scanner: token too long"},
	} {
		tokens, err := ParseTokens([]byte(c.content))
		got := fmt.Sprint(err)
		if err == nil {
			var words []string
			for _, tok := range tokens {
				words = append(words, tok.Name+"/"+tok.Role.String())
			}
			got = strings.Join(words, " ")
		}
		if got != c.want {
			t.Errorf("%.60q: %q, want %q", c.content, got, c.want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error %q holds the token", err)
		}
	}
}

// Whatever a tokens file holds, every token that is let in has a name, a role and a length, and no error holds one.
func FuzzParseTokens(f *testing.F) {
	for _, s := range []string{"", "ann admin a-token-of-a-person", "# x\nann viewer 0123456789abcdef\nann viewer 0123456789abcdef", "a b c d", "\xff\x00 admin 0123456789abcdef"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, content string) {
		tokens, err := ParseTokens([]byte(content))
		if err != nil {
			for w := range strings.FieldsSeq(content) {
				if len(w) >= minToken && len(w) <= maxTokenName && strings.Contains(err.Error(), w) && !strings.Contains(err.Error(), fmt.Sprintf("%q", w)) {
					t.Errorf("%q holds the word %q", err, w)
				}
			}
			return
		}
		seen := map[string]bool{}
		for _, tok := range tokens {
			if tok.validate() != nil || seen[tok.Value] {
				t.Errorf("let in: %+v", tok)
			}
			seen[tok.Value] = true
		}
	})
}

func TestClientAddress(t *testing.T) {
	trusted, err := ParseProxies([]string{"10.0.0.0/8", "192.0.2.7", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		peer      string
		forwarded []string
		want      string
	}{
		{"203.0.113.9:4711", nil, "203.0.113.9"},
		{"203.0.113.9:4711", []string{"198.51.100.1"}, "203.0.113.9"}, // nobody trusts it
		{"10.1.2.3:4711", nil, "10.1.2.3"},
		{"10.1.2.3:4711", []string{""}, "10.1.2.3"},
		{"10.1.2.3:4711", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.1.2.3:4711", []string{"127.0.0.1, 198.51.100.1"}, "198.51.100.1"}, // what the client wrote itself
		{"10.1.2.3:4711", []string{"198.51.100.1, 192.0.2.7"}, "198.51.100.1"}, // two proxies
		{"10.1.2.3:4711", []string{"6.6.6.6", "198.51.100.1", "192.0.2.7"}, "198.51.100.1"},
		{"10.1.2.3:4711", []string{"198.51.100.1, 192.0.2.8"}, "192.0.2.8"},
		{"10.1.2.3:4711", []string{"198.51.100.1:80"}, "198.51.100.1"},
		{"10.1.2.3:4711", []string{"[2001:db8::1]:80"}, "2001:db8::1"},
		{"10.1.2.3:4711", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"10.1.2.3:4711", []string{"<script>, 198.51.100.1"}, "198.51.100.1"},
		{"10.1.2.3:4711", []string{"198.51.100.1, <script>"}, "10.1.2.3"},
		{"[::ffff:10.1.2.3]:4711", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[fd00::1%eth0]:4711", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"10.1.2.3:4711", []string{"10.0.0.1, 10.0.0.2"}, "10.0.0.1"}, // all inside
		{"@", []string{"198.51.100.1"}, "@"},
	} {
		if got := clientAddress(c.peer, c.forwarded, trusted); got != c.want {
			t.Errorf("%s with %q: %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
	for _, bad := range []string{"10.0.0.0/33", "proxy.example.com", "", "10.0.0.1-10.0.0.9"} {
		if _, err := ParseProxies([]string{bad}); err == nil {
			t.Errorf("%q is taken for addresses", bad)
		}
	}
}

// Whoever is not trusted chooses no address but its own.
func FuzzClientAddress(f *testing.F) {
	f.Add("203.0.113.9:4711", "198.51.100.1, 10.0.0.1")
	f.Add("10.1.2.3:1", "a, b,, [::1]:5")
	f.Fuzz(func(t *testing.T, peer, forwarded string) {
		trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		got := clientAddress(peer, []string{forwarded}, trusted)
		at, ok := parseAddress(peer)
		switch {
		case !ok && got != peer:
			t.Errorf("%q becomes %q", peer, got)
		case ok && !within(at, trusted) && got != at.String():
			t.Errorf("%q with %q becomes %q", peer, forwarded, got)
		}
	})
}

func TestFailures(t *testing.T) {
	now := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	f := &failures{}
	told := 0
	for i := range 50 {
		v := f.add("203.0.113.9", now)
		if want := i >= failuresPerMinute; v.wait != want {
			t.Errorf("wrong token %d: wait %v, want %v", i+1, v.wait, want)
		}
		if v.tell {
			told++
		}
	}
	if told != 2 {
		t.Errorf("%d lines for one address, want 2", told)
	}
	if v := f.add("203.0.113.10", now); v.wait {
		t.Error("another address has to wait")
	}
	// One holder of IPv6 addresses has a network of them.
	for i := range failuresPerMinute {
		f.add(fmt.Sprintf("2001:db8::%d", i), now)
	}
	if v := f.add("2001:db8::ffff", now); !v.wait {
		t.Error("a network of IPv6 addresses need not wait")
	}
	// Addresses without number take neither memory nor the log.
	for i := range 3 * failureAddresses {
		if f.add(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), now).tell {
			told++
		}
	}
	if len(f.count) > failureAddresses+1 || told > failureLines {
		t.Errorf("%d addresses, %d lines", len(f.count), told)
	}
	if n := f.silenced(now); n != 0 {
		t.Errorf("%d before the minute was over", n)
	}
	now = now.Add(time.Minute)
	if n := f.silenced(now); n < 3*failureAddresses {
		t.Errorf("%d had no line", n)
	}
	if n := f.silenced(now); n != 0 {
		t.Errorf("%d are told twice", n)
	}
	if v := f.add("203.0.113.9", now); v.wait || !v.tell {
		t.Errorf("a minute later: %+v", v)
	}
}

// What is good stays in use until what is new is good, and what is half written is no change.
func TestWatched(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var used []string
	var broken bool
	var log strings.Builder
	w := &watched{
		files: []string{file}, log: slog.New(slog.NewTextHandler(&log, nil)), broken: func(b bool) { broken = b },
		use: func(_ context.Context, contents [][]byte) error {
			if strings.HasPrefix(string(contents[0]), "bad") {
				return errors.New("line 1 is bad")
			}
			used = append(used, string(contents[0]))
			return nil
		},
	}
	look := func(n int) {
		for range n {
			w.look(t.Context())
		}
	}
	errorsTold := func() int { return strings.Count(log.String(), "level=ERROR") }

	if err := w.start(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	write("bad")
	if err := w.start(t.Context()); err == nil || !strings.Contains(err.Error(), file+": line 1 is bad") {
		t.Errorf("a bad file at the start: %v", err)
	}
	write("one")
	if err := w.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	look(3)
	write("")
	look(1) // it is being written
	write("two")
	look(1)
	if !slices.Equal(used, []string{"one"}) {
		t.Errorf("used %q before the file has settled", used)
	}
	look(1)
	write("bad")
	look(4)
	if !slices.Equal(used, []string{"one", "two"}) || !broken || errorsTold() != 1 {
		t.Errorf("used %q, broken %v, told %d times: %s", used, broken, errorsTold(), log.String())
	}
	write("bad in another way")
	look(2)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	look(3)
	if errorsTold() != 3 || len(used) != 2 || !broken {
		t.Errorf("used %q, told %d times", used, errorsTold())
	}
	write("two") // put back
	look(2)
	if broken || len(used) != 2 {
		t.Errorf("used %q, broken %v after it was put back", used, broken)
	}
	write("")
	look(2)
	if !slices.Equal(used, []string{"one", "two", ""}) {
		t.Errorf("used %q: an empty file counts", used)
	}
	write(strings.Repeat("x", maxFile+1))
	look(2)
	if !broken || len(used) != 3 {
		t.Error("a file without end is used")
	}
}

func TestPublicAddress(t *testing.T) {
	for _, c := range []struct {
		listener string
		hosts    []string
		machine  string
		want     string
	}{
		{"127.0.0.1:7443", nil, "box", "127.0.0.1:7443"},
		{"10.1.2.3:7443", nil, "box", "10.1.2.3:7443"},
		{"[::]:7443", nil, "box", "box:7443"},
		{"0.0.0.0:7443", nil, "box", "box:7443"},
		{"[::]:7443", nil, "", "127.0.0.1:7443"},
		{"[::1]:7443", nil, "box", "[::1]:7443"},
		{"[::]:7443", []string{"hub.example.com", "10.1.2.3"}, "box", "hub.example.com:7443"},
		{"127.0.0.1:7443", []string{"hub.example.com"}, "box", "hub.example.com:7443"},
		{"[::]:7443", []string{"2001:db8::1"}, "box", "[2001:db8::1]:7443"},
		{"[::]:7443", []string{"[2001:db8::1]"}, "box", "[2001:db8::1]:7443"},
	} {
		if got := publicAddress(c.listener, c.hosts, c.machine); got != c.want {
			t.Errorf("%s as %v on %q: %s, want %s", c.listener, c.hosts, c.machine, got, c.want)
		}
	}
}
