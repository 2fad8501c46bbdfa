package router

import (
	"net/http"
	"strconv"
	"strings"
)

// page is what a client gets when mesh answers instead of an app.
type page struct {
	status int
	title  string
	text   string
	retry  int // seconds, for Retry-After; 0: none
}

// pages by code. No text names a stack, an instance or an address.
var pages = map[Code]page{
	UnknownHost:  {404, "Nothing here", "No app is served under this name.", 0},
	BadRequest:   {400, "Bad request", "The request cannot be forwarded.", 0},
	Misdirected:  {421, "Misdirected", "This connection was opened for another name.", 0},
	Unauthorized: {401, "Password needed", "This app needs a user name and a password.", 0},
	Forbidden:    {403, "Not allowed", "This app does not accept requests from your address.", 0},
	TooManyTries: {429, "Too many tries", "There were too many tries with a password. Please try again shortly.", 1},
	RateLimited:  {429, "Too many requests", "This app accepts a limited number of requests. Please try again shortly.", 1},
	NotDeployed:  {503, "Not deployed yet", "This app has no release yet. It will be here after its first successful push.", 30},
	Asleep:       {503, "Asleep", "This app sleeps until somebody needs it.", 3600},
	Stopped:      {503, "Stopped", "This app has been stopped by its owner.", 60},
	Maintenance:  {503, "Down for maintenance", "This app is being worked on and will be back soon.", 60},
	NoInstance:   {503, "Starting", "This app has no running instance at the moment. Please try again shortly.", 5},
	NoConnection: {503, "Not reachable", "This app accepts no connections at the moment. Please try again shortly.", 5},
	QueueFull:    {503, "Busy", "Too many requests are waiting for this app to start. Please try again shortly.", 10},
	AppClosed:    {502, "App error", "The app closed the connection before its answer was complete.", 0},
	AppGarbage:   {502, "App error", "The app's answer is not valid HTTP.", 0},
	AppSlow:      {504, "App timed out", "The app did not begin its answer in time.", 0},
	Cut:          {503, "Restarting", "The app was stopped before it answered. Please try again.", 1},
	Broken:       {500, "Internal error", "Something went wrong in the router.", 0},
}

// The page loads nothing from outside, follows the reader's colour scheme and is
// under 2 KiB.
const pageHead = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex"><title>`

const pageStyle = `</title><style>
:root{color-scheme:light dark;--b:#fafafa;--f:#1c1c1e;--m:#6e6e73;--l:#e2e2e5}
@media(prefers-color-scheme:dark){:root{--b:#161618;--f:#f2f2f4;--m:#98989d;--l:#313135}}
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--b);color:var(--f);font:16px/1.5 system-ui,sans-serif}
main{max-width:28rem;padding:2rem}
p{margin:.5rem 0}.n{color:var(--m);font-size:.9rem;letter-spacing:.08em}
h1{margin:.25rem 0 1rem;font-size:1.75rem;line-height:1.2;font-weight:650}
code{display:block;margin-top:2rem;padding-top:1rem;border-top:1px solid var(--l);color:var(--m);font:.8rem ui-monospace,monospace;overflow-wrap:anywhere}
</style></head><body><main><p class="n">`

// writePage answers instead of the app. It closes nothing and may only be called
// while nothing has been sent.
func (q *request) writePage(p page) {
	h := q.w.Header()
	clear(h)
	var body string
	if own := q.page; own != "" && wantsHTML(q.r.Header) {
		h["Content-Type"] = []string{"text/html; charset=utf-8"}
		body = own
	} else if wantsHTML(q.r.Header) {
		h["Content-Type"] = []string{"text/html; charset=utf-8"}
		// Everything inserted is from the table, except the id, which validID has
		// checked.
		body = pageHead + p.title + pageStyle + strconv.Itoa(p.status) + "</p><h1>" + p.title + "</h1><p>" + p.text +
			"</p><code>request " + q.rec.RequestID + "</code></main></body></html>\n"
	} else {
		h["Content-Type"] = []string{"text/plain; charset=utf-8"}
		body = strings.TrimSuffix(p.text, ".") + " (request " + q.rec.RequestID + ")\n"
	}
	h["Cache-Control"] = []string{"no-store"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	h["X-Request-Id"] = []string{q.rec.RequestID}
	if p.retry > 0 {
		h["Retry-After"] = []string{strconv.Itoa(p.retry)}
	}
	if p.status == http.StatusUnauthorized {
		// RFC 7617; the characters of a host need no escape.
		h["Www-Authenticate"] = []string{`Basic realm="` + normalHost(q.r.Host) + `", charset="UTF-8"`}
	}
	if p.status == http.StatusMethodNotAllowed {
		h["Allow"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
	}
	if q.r.ProtoMajor == 1 && (q.hasBody && !q.bodyRead || q.last()) {
		h["Connection"] = []string{"close"}
	}
	q.rec.Status = p.status
	q.w.WriteHeader(p.status)
	if q.r.Method != http.MethodHead {
		n, _ := q.w.Write([]byte(body)) // if the client is gone, there is nobody to tell
		q.rec.Bytes = int64(n)
	}
}

// wantsHTML reports whether a browser is asking: only browsers accept text/html by
// name.
func wantsHTML(h http.Header) bool {
	for _, v := range h["Accept"] {
		if strings.Contains(v, "text/html") {
			return true
		}
	}
	return false
}
