package web

import (
	"net/http"
	"strconv"

	"github.com/flotilla-fleet/flotilla/hub/store"
)

type auditData struct {
	AuditPart
	// Filters names what narrows the log, with the address without it.
	Filters []facet
	// First is whether nothing newer is left out; Older leads to the next part, if there is one.
	First bool
	Older string
}

// Audit is the page of what people and agents did, and what came of it.
func (p *Pages) Audit(w http.ResponseWriter, r *http.Request) {
	r = p.marked(r)
	values := r.URL.Query()
	f := store.AuditFilter{
		Cluster: values.Get("cluster"), Actor: values.Get("actor"), Action: values.Get("action"), Limit: pageRows,
	}
	if s := values.Get("before"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n == 0 {
			p.problem(w, r, http.StatusBadRequest, "That filter does not work", "before is not a number from 1")
			return
		}
		f.Before = n
	}
	part, err := p.cfg.Source.Audit(r.Context(), f)
	if err != nil {
		p.failed(w, r, err)
		return
	}
	d := auditData{AuditPart: part, First: f.Before == 0}
	if part.Before > 0 {
		d.Older = with(r.URL, "before", strconv.FormatUint(part.Before, 10))
	}
	for _, k := range []string{"cluster", "actor", "action"} {
		if v := values.Get(k); v != "" {
			d.Filters = append(d.Filters, facet{Label: k + ": " + v, URL: with(r.URL, k, "", "before", "")})
		}
	}
	p.render(w, r, http.StatusOK, page{
		Name: "audit", Title: "Audit log", Data: d, Open: p.openDrift(r), Twin: twin("/api/v1/audit", values),
	})
}
