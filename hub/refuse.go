package hub

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/pki"
	"github.com/flotilla-fleet/flotilla/hub/proto/hubv1"
)

// Why a stream ends without a refusal: the agent just connects again.
var (
	errReplaced = errors.New("the agent opened a newer stream")
	errStopping = errors.New("the hub is stopping")
	errGone     = errors.New("the stream has ended")
	errSilent   = errors.New("nothing was heard from the agent")
)

// Reasons of refusals, as agents and scripts see them.
const (
	reasonNoCertificate = "NoCertificate"
	reasonNotOurs       = "UnknownCertificate"
	reasonExpired       = "CertificateExpired"
	reasonRevoked       = "CertificateRevoked"
	reasonSecondAgent   = "SecondAgent"
	reasonWrongCluster  = "WrongCluster"
	reasonBadToken      = "BadToken"
	reasonBadRequest    = "BadRequest"
	reasonBadReport     = "BadReport"
	reasonTooMany       = "TooManyRequests"

	reasonTooManyConnections = "TooManyConnections"
)

func refused(reason, hint, format string, args ...any) error {
	return &api.Error{Kind: api.Forbidden, Reason: reason, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// quoted shows what somebody sent, up to a length that a message has room for.
func quoted(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
}

func secondAgent(cluster, holder string) error {
	return refused(reasonSecondAgent,
		fmt.Sprintf("if the other agent is gone for good, revoke its certificate at the hub with POST /api/v1/clusters/%s/revoke, and join again", cluster),
		"cluster %q already has an agent (%s)", cluster, holder)
}

func expired(id pki.Identity) error {
	return refused(reasonExpired, "join again with a new token",
		"the certificate of cluster %q expired at %s", id.Cluster, id.NotAfter.UTC().Format(time.RFC3339))
}

func revoked(cluster, why string) error {
	return refused(reasonRevoked, "join again with a new token",
		"the certificate of cluster %q was revoked: %s", cluster, why)
}

// wireError is an error as it goes to an agent: its kind as a code, its reason as a detail.
func wireError(err error) error {
	var ce *connect.Error
	if err == nil || errors.As(err, &ce) {
		return err
	}
	var e *api.Error
	if !errors.As(err, &e) {
		if errors.Is(err, errReplaced) || errors.Is(err, errStopping) || errors.Is(err, errSilent) {
			return connect.NewError(connect.CodeUnavailable, err)
		}
		return connect.NewError(connect.CodeInternal, err)
	}
	code := connect.CodeUnavailable
	switch e.Kind {
	case api.Forbidden:
		code = connect.CodePermissionDenied
	case api.Stalled:
		code = connect.CodeInvalidArgument
	case api.Internal:
		code = connect.CodeInternal
	case api.Waiting, api.Transient:
	}
	out := connect.NewError(code, e.Err)
	if d, err := connect.NewErrorDetail(&hubv1.Refusal{Reason: e.Reason, Hint: e.Hint}); err == nil {
		out.AddDetail(d)
	}
	return out
}
