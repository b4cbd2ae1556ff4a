package drift

import (
	"strconv"

	paths "github.com/flotilla-fleet/flotilla/api/fieldpath"
)

// trail is the way from an object to a field, and step one part of it.
type (
	trail = paths.Trail
	step  = paths.Step
)

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }
