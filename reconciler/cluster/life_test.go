package cluster

import (
	"strings"
	"testing"
	"time"
)

func TestLifeOf(t *testing.T) {
	now := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(ago time.Duration) string { return now.Add(-ago).Format(leaseTime) }
	starts := func(ago ...time.Duration) string {
		var out []string
		for _, d := range ago {
			out = append(out, now.Add(-d).Format(time.RFC3339))
		}
		return strings.Join(out, ",")
	}
	const renews = annotationRenewEvery
	for _, tt := range []struct {
		name   string
		holder string
		renew  string
		notes  map[string]string
		want   LifeState
		age    int
		starts int
	}{
		{"renewed in time", "one", at(31 * time.Second), map[string]string{renews: "30s"}, LifeAlive, 31, 0},
		{"a clock that is behind", "one", at(-5 * time.Second), map[string]string{renews: "30s"}, LifeAlive, 0, 0},
		{"two renewals are late", "one", at(89 * time.Second), map[string]string{renews: "30s"}, LifeAlive, 89, 0},
		{"killed", "one", at(91 * time.Second), map[string]string{renews: "30s"}, LifeSilent, 91, 0},
		{"dead for days", "one", at(49 * time.Hour), map[string]string{renews: "30s", annotationUnclean: starts(50 * time.Hour)}, LifeSilent, 49 * 3600, 0},
		{"given back", "", at(time.Minute), map[string]string{renews: "30s"}, LifeStopped, 60, 0},
		{"of an agent that promises nothing", "one", at(time.Hour), nil, LifeUnknown, 3600, 0},
		{"a promise that cannot be read", "one", at(time.Hour), map[string]string{renews: "soon"}, LifeUnknown, 3600, 0},
		{"crashed twice", "one", at(time.Second), map[string]string{renews: "30s", annotationUnclean: starts(20*time.Minute, time.Minute)}, LifeAlive, 1, 2},
		{"crashes again and again", "one", at(time.Second), map[string]string{renews: "30s", annotationUnclean: starts(59*time.Minute, 20*time.Minute, time.Second)}, LifeRestarting, 1, 3},
		{"crashed again and again yesterday", "one", at(time.Second), map[string]string{renews: "30s", annotationUnclean: starts(25*time.Hour, 24*time.Hour, 23*time.Hour)}, LifeAlive, 1, 0},
		{"nonsense", "one", "yesterday", map[string]string{renews: "30s", annotationUnclean: "x,,y"}, LifeSilent, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := lease{Metadata: leaseMeta{Annotations: tt.notes}, Spec: leaseSpec{HolderIdentity: tt.holder, RenewTime: tt.renew}}
			got := lifeOf(l, now)
			if got.State != tt.want || got.Age != tt.age || len(got.UncleanStarts) != tt.starts {
				t.Errorf("%+v, want %s at an age of %d with %d starts", got, tt.want, tt.age, tt.starts)
			}
		})
	}
}

func TestLease_startsAreBounded(t *testing.T) {
	var l lease
	at := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	for i := range 3 * maxUnclean {
		l.startedUnclean(at.Add(time.Duration(i) * time.Minute))
	}
	all := uncleanStarts(l.Metadata.Annotations)
	if len(all) != maxUnclean || !all[maxUnclean-1].Equal(at.Add((3*maxUnclean-1)*time.Minute)) {
		t.Errorf("it tells of %v", all)
	}
}
