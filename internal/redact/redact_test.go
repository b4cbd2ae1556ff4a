package redact_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/flotilla-fleet/flotilla/internal/redact"
)

func TestURL(t *testing.T) {
	for in, want := range map[string]string{
		"https://git.example/fleet.git":                  "https://git.example/fleet.git",
		"https://bob:s3cret@git.example/fleet.git":       "https://git.example/fleet.git",
		"https://t0ken@git.example/fleet.git":            "https://git.example/fleet.git",
		"https://git.example/fleet.git?private_token=ab": "https://git.example/fleet.git?private_token=***",
		"/srv/git/fleet.git":                             "/srv/git/fleet.git",
		"https://bob:a%zzb@git.example/fleet.git":        "https://***@git.example/fleet.git",
	} {
		if got := redact.URL(in); got != want {
			t.Errorf("URL(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestText(t *testing.T) {
	for _, test := range []struct {
		in, want string
		secrets  []string
	}{
		{in: `Get "https://bob:s3cret@git.example/x": EOF`, want: `Get "https://***@git.example/x": EOF`},
		{in: `https://bob:p@ss@git.example/x`, want: `https://***@git.example/x`},
		{in: `mail bob@git.example, see https://git.example/`, want: `mail bob@git.example, see https://git.example/`},
		{in: `https://git.example/?a=1&access_token=abc&b=2`, want: `https://git.example/?a=1&access_token=***&b=2`},
		{in: `the server said abc/def`, secrets: []string{"abc/def", ""}, want: `the server said ***`},
		{in: `the server said abc%2Fdef`, secrets: []string{"abc/def"}, want: `the server said ***`},
		{in: `Authorization: Bearer eyJhbGciOi`, want: `Authorization: Bearer ***`},
		{in: `map[Authorization:[Basic Ym9iOnM=]]`, want: `map[Authorization:[Basic ***]]`},
	} {
		if got := redact.Text(test.in, test.secrets...); got != test.want {
			t.Errorf("Text(%q) = %q, want %q", test.in, got, test.want)
		}
	}
}

func TestErrorKeepsTheChain(t *testing.T) {
	if redact.Error(nil) != nil {
		t.Error("Error(nil) is not nil")
	}
	plain := errors.New("nothing to hide")
	if got := redact.Error(plain); !errors.Is(got, plain) {
		t.Errorf("Error changed an error that hides nothing: %v", got)
	}
	err := redact.Error(fmt.Errorf("get https://a:b@c/: %w", fs.ErrNotExist))
	if got, want := err.Error(), "get https://***@c/: file does not exist"; got != want {
		t.Errorf("Error = %q, want %q", got, want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
}
