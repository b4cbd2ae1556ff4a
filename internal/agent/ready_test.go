package agent

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestVitals(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	well := vitals{now: now, leased: ago(29 * time.Second), reached: ago(time.Second), poll: 15 * time.Second}
	for _, tt := range []struct {
		name   string
		change func(*vitals)
		want   int
		says   []string
	}{
		{"all is well", func(*vitals) {}, 200, []string{"[+] lease\n", "[+] repository\n", "[+] store\n"}},
		{"just begun", func(v *vitals) { v.leased, v.reached = time.Time{}, time.Time{} }, 503, []string{"[-] lease: the API server has not yet", "[-] repository: the repository has not yet"}},
		{"one answer of the API server is late", func(v *vitals) { v.leased = ago(59 * time.Second) }, 200, nil},
		{"it stands by", func(v *vitals) { v.standby = true }, 200, []string{"[+] lease (this agent stands by: another one has the cluster)\n"}},
		{"it stands by, and nobody answers", func(v *vitals) { v.standby, v.leased, v.reached = true, time.Time{}, time.Time{} }, 503, []string{"[-] lease: the API server has not yet answered", "[-] repository"}},
		{"it stands by, and the API server is away", func(v *vitals) { v.standby, v.leased = true, ago(time.Minute) }, 503, []string{"[-] lease: the API server last answered 1m0s ago"}},
		{"the API server is away", func(v *vitals) { v.leased = ago(2 * time.Minute) }, 503, []string{"[-] lease: the API server last said 2m0s ago", "[+] repository"}},
		{"the repository was away for a moment", func(v *vitals) { v.reached = ago(4 * time.Minute) }, 200, nil},
		{"the repository is away", func(v *vitals) { v.reached = ago(6 * time.Minute) }, 503, []string{"[-] repository: the repository last answered 6m0s ago", "[+] lease"}},
		{"the repository is asked every hour", func(v *vitals) { v.reached, v.poll = ago(2*time.Hour), time.Hour }, 200, nil},
		{"a full disk", func(v *vitals) { v.stored = errors.New("no space left on device") }, 503, []string{"[-] store: no space left on device"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := well
			tt.change(&v)
			w := httptest.NewRecorder()
			v.answer(w)
			if w.Code != tt.want {
				t.Errorf("%d, want %d:\n%s", w.Code, tt.want, w.Body)
			}
			for _, s := range tt.says {
				if !strings.Contains(w.Body.String(), s) {
					t.Errorf("it does not say %q:\n%s", s, w.Body)
				}
			}
		})
	}
}

// A directory that takes no file is noticed though nothing is to be stored, and so is that it takes one again.
func TestDiskProbe(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	p := &diskProbe{dir: dir + "/gone"}
	if err := p.writable(now); err == nil || !strings.Contains(err.Error(), "no such file") || strings.Contains(err.Error(), dir) {
		t.Errorf("without a directory: %v", err)
	}
	p.dir = dir
	if err := p.writable(now.Add(time.Second)); err == nil {
		t.Error("it was asked again at once")
	}
	if err := p.writable(now.Add(probeEvery)); err != nil {
		t.Errorf("with a directory: %v", err)
	}
	p.dir += "/gone"
	if err := p.writable(now.Add(-time.Hour)); err == nil {
		t.Error("a clock that was put back keeps the last answer")
	}
}
