package engine

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/flotilla-fleet/flotilla/internal/sandbox"
)

// DefaultLimits are the limits of the rendering of one bundle, where nothing else is said.
func DefaultLimits() sandbox.Limits {
	return sandbox.Limits{Time: 30 * time.Second, Memory: 512 << 20, Output: 32 << 20}
}

// LimitsText writes limits as ParseLimits reads them.
func LimitsText(l sandbox.Limits) string {
	return fmt.Sprintf("time=%v,memory=%s,output=%s", l.Time, quantity(l.Memory), quantity(l.Output))
}

// ParseLimits reads limits such as "time=1m,memory=1Gi,output=64Mi". What is not named is as in DefaultLimits.
func ParseLimits(s string) (sandbox.Limits, error) {
	out := DefaultLimits()
	for word := range strings.SplitSeq(s, ",") {
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		name, value, _ := strings.Cut(word, "=")
		var err error
		switch name {
		case "time":
			out.Time, err = time.ParseDuration(value)
			if err == nil && (out.Time < time.Second || out.Time > time.Hour) {
				err = fmt.Errorf("%q is not between 1s and 1h", value)
			}
		case "memory":
			out.Memory, err = parseQuantity(value, 64<<20)
		case "output":
			out.Output, err = parseQuantity(value, 64<<10)
		default:
			err = fmt.Errorf("there are time, memory and output")
		}
		if err != nil {
			return out, fmt.Errorf("the limit %q: %w", name, err)
		}
	}
	return out, nil
}

var units = []struct {
	suffix string
	bytes  int64
}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}, {"", 1}}

func quantity(n int64) string {
	for _, u := range units {
		if n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return ""
}

func parseQuantity(s string, least int64) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is not a size such as 512Mi", s)
		}
		if n *= u.bytes; n < least || n > maxMessage {
			return 0, fmt.Errorf("%q is not between %s and %s", s, quantity(least), quantity(maxMessage))
		}
		return n, nil
	}
	return 0, nil
}

// maxMessage bounds what limits can be set to.
const maxMessage = 16 << 30

// withDefaults fills in what is zero.
func withDefaults(l sandbox.Limits) sandbox.Limits {
	d := DefaultLimits()
	return sandbox.Limits{
		Time: cmp.Or(l.Time, d.Time), Memory: cmp.Or(l.Memory, d.Memory), Output: cmp.Or(l.Output, d.Output),
	}
}
