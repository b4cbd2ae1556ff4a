package hub

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
)

// strangersPerSite is how many connections of one site a listener keeps that nobody has vouched for.
// An honest one is vouched for by its first request, by a token or a certificate.
const strangersPerSite = 512

// crowd bounds the connections of each site that nobody has vouched for. Beyond the bound the oldest is closed:
// whoever fills it holds up nobody who comes after.
type crowd struct {
	most int
	// exempt are the addresses of trusted proxies, behind which everybody is.
	exempt []netip.Prefix
	// closed is told of each connection that had to go.
	closed func(site string)

	mu sync.Mutex
	// waiting are a site's connections, oldest first; guarded by mu.
	waiting map[string]*list.List
}

func newCrowd(exempt []netip.Prefix, closed func(site string)) *crowd {
	return &crowd{most: strangersPerSite, exempt: exempt, closed: closed, waiting: map[string]*list.List{}}
}

// crowdListener hands out connections that the crowd counts.
type crowdListener struct {
	net.Listener

	crowd *crowd
}

func (l crowdListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.crowd.admit(c), nil
}

// guest is a connection in a crowd.
type guest struct {
	net.Conn

	crowd *crowd
	site  string
	// place is in crowd.waiting, nil when the guest is not in it any more; guarded by crowd.mu.
	place *list.Element
}

func (c *crowd) admit(conn net.Conn) net.Conn {
	at, ok := parseAddress(conn.RemoteAddr().String())
	if !ok || within(at, c.exempt) {
		return conn
	}
	g := &guest{Conn: conn, crowd: c, site: site(at.String())}
	if old := c.push(g); old != nil {
		_ = old.Close() // it is in nobody's hands yet, and its server finds it closed
		c.closed(old.site)
	}
	return g
}

// push adds a guest, and returns the one that must go.
func (c *crowd) push(g *guest) (old *guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.waiting[g.site]; l != nil && l.Len() >= c.most {
		old, _ = l.Front().Value.(*guest)
		c.leaveLocked(old)
	}
	l := c.waiting[g.site]
	if l == nil {
		l = list.New()
		c.waiting[g.site] = l
	}
	g.place = l.PushBack(g)
	return old
}

func (c *crowd) leaveLocked(g *guest) {
	l := c.waiting[g.site]
	if g.place == nil || l == nil {
		return
	}
	l.Remove(g.place)
	if g.place = nil; l.Len() == 0 {
		delete(c.waiting, g.site)
	}
}

// leave takes a guest out of the crowd: it is closed, or somebody has vouched for it.
func (g *guest) leave() {
	g.crowd.mu.Lock()
	defer g.crowd.mu.Unlock()
	g.crowd.leaveLocked(g)
}

// Close closes the connection.
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}

type guestKey struct{}

// withGuest is for http.Server.ConnContext: it lets vouch find the connection of a request.
func withGuest(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if g, ok := c.(*guest); ok {
		return context.WithValue(ctx, guestKey{}, g)
	}
	return ctx
}

// vouch says that a request came from somebody who is known.
func vouch(ctx context.Context) {
	if g, ok := ctx.Value(guestKey{}).(*guest); ok {
		g.leave()
	}
}
