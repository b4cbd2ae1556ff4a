package cli

import (
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScript runs the commands that ask no cluster as a person does, and compares what they read, to the letter.
//
// A script runs "flotilla ARG…", or "exits CODE ARG…" where the exit code is not 0.
// With -update, the outputs in the scripts are written anew.
func TestScript(t *testing.T) {
	t.Setenv("FLOTILLA_HUB", "")
	t.Setenv("FLOTILLA_TOKEN", "")
	t.Setenv("KUBECONFIG", t.TempDir()+"/none")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"flotilla": func(ts *testscript.TestScript, _ bool, args []string) { exits(t, ts, 0, args) },
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				code, err := strconv.Atoi(args[0])
				ts.Check(err)
				exits(t, ts, code, args[1:])
			},
		},
	})
}

func exits(t *testing.T, ts *testscript.TestScript, want int, args []string) {
	if code := Execute(t.Context(), args, IO{In: strings.NewReader(""), Out: ts.Stdout(), Err: ts.Stderr()}); code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}
