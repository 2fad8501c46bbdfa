package router

import (
	"net/http"
	"net/netip"
)

// serveOwn answers a request for the host of the server itself. It carries secrets, so it
// must be encrypted on its way, or come from this machine.
func (q *request) serveOwn(own http.Handler) {
	q.own = true
	if q.peer.proto != "https" {
		host := normalHost(q.r.Host)
		if secure := q.router.opts.Secure; secure != nil && secure(host) {
			to, _ := q.leads(&route{})
			q.redirect(to)
			return
		}
		if a, err := netip.ParseAddr(q.peer.ip); err != nil || !a.Unmap().IsLoopback() {
			q.failWith(Forbidden, page{403, "HTTPS only", "This host is served over HTTPS only.", 0})
			return
		}
	}
	q.w.Header()["X-Request-Id"] = []string{q.rec.RequestID}
	w := &ownWriter{ResponseWriter: q.w, q: q}
	own.ServeHTTP(w, q.r)
}

// ownWriter notes what was answered, for the access record.
type ownWriter struct {
	http.ResponseWriter
	q *request
}

// WriteHeader implements http.ResponseWriter.
func (w *ownWriter) WriteHeader(status int) {
	if w.q.rec.Status == 0 {
		w.q.rec.Status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *ownWriter) Write(b []byte) (int, error) {
	if w.q.rec.Status == 0 {
		w.q.rec.Status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.q.rec.Bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *ownWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
