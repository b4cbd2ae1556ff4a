package api_test

import (
	"testing"

	"github.com/flotilla-fleet/flotilla/api"
)

func TestDecodeFleet_persons(t *testing.T) {
	const head = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nspec:\n"
	for _, mode := range []api.Persons{"", api.PersonsOff, api.PersonsName, api.PersonsHash} {
		text := head + "  persons: " + string(mode) + "\n"
		if f, err := api.DecodeFleet("fleet.yaml", []byte(text)); err != nil || f.Spec.Persons != mode {
			t.Errorf("%q: %q, %v", mode, f.Spec.Persons, err)
		}
	}
	_, err := api.DecodeFleet("fleet.yaml", []byte(head+"  persons: all\n"))
	if e, ok := err.(*api.Error); !ok || e.Field != "spec.persons" || e.Line != 4 { //nolint:errorlint // it is documented
		t.Errorf("a wrong word: %+v", err)
	}
}
