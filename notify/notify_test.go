package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/notify"
)

// world is a Notifier with recipients and an outbox in memory.
type world struct {
	*notify.Notifier
	log strings.Builder

	mu         sync.Mutex
	recipients []mesh.Recipient
	outbox     []mesh.Notice
	next       uint64
}

func newWorld(t *testing.T, change func(*notify.Options), recipients ...mesh.Recipient) *world {
	t.Helper()
	w := &world{recipients: recipients}
	o := notify.Options{
		Recipients: func(context.Context) ([]mesh.Recipient, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Clone(w.recipients), nil
		},
		Outbox: func(context.Context) ([]mesh.Notice, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Clone(w.outbox), nil
		},
		Delivered: func(_ context.Context, numbers []uint64) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.outbox = slices.DeleteFunc(w.outbox, func(n mesh.Notice) bool { return slices.Contains(numbers, n.Number) })
			return nil
		},
		Server: "apps.example.com", Version: "1.2.3", First: time.Millisecond, Pace: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(io.MultiWriter(&lockedWriter{w: &w.log}, t.Output()), nil)),
	}
	if change != nil {
		change(&o)
	}
	w.Notifier = notify.New(o)
	return w
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// run delivers until the test ends, or stop is called.
func (w *world) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// add records and sends a message.
func (w *world) add(to mesh.RecipientName, event mesh.NoticeEvent, text string) {
	w.mu.Lock()
	w.next++
	n := notice(to, event, text)
	n.Number, n.Alert.Number = w.next, w.next
	w.outbox = append(w.outbox, n)
	w.mu.Unlock()
	w.Send([]mesh.Notice{n})
}

func (w *world) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.outbox)
}

var began = time.Date(2026, 11, 26, 14, 2, 3, 0, time.UTC)

func notice(to mesh.RecipientName, event mesh.NoticeEvent, text string) mesh.Notice {
	n := mesh.Notice{Recipient: to, Event: event, At: began.Add(time.Minute), Alert: mesh.Alert{
		Number: 7, Kind: mesh.AlertCrash, Stack: "shop", About: "web.1", Text: text, Since: began, Count: 3,
	}}
	if event == mesh.NoticeRecovered {
		n.Alert.Ended, n.Alert.Outcome = began.Add(7*time.Minute), "web.1 is up again"
	}
	return n
}

// sink is a server that keeps what it gets.
type sink struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	heads  []http.Header
	paths  []string
	answer func(n int, w http.ResponseWriter) // of the n-th request, from 1; nil: 200
	got    chan struct{}
}

func newSink(t *testing.T, answer func(n int, w http.ResponseWriter)) *sink {
	s := &sink{answer: answer, got: make(chan struct{}, 1000)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.bodies, s.heads, s.paths = append(s.bodies, string(body)), append(s.heads, r.Header.Clone()), append(s.paths, r.URL.Path)
		n := len(s.bodies)
		s.mu.Unlock()
		if s.answer != nil {
			s.answer(n, w)
		}
		s.got <- struct{}{}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) wait(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-s.got:
		case <-time.After(30 * time.Second):
			t.Fatalf("no message after %d", len(s.all()))
		}
	}
}

func (s *sink) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func status(codes ...int) func(int, http.ResponseWriter) {
	return func(n int, w http.ResponseWriter) {
		if n <= len(codes) {
			w.WriteHeader(codes[n-1])
		}
	}
}

const planted = "Planted-8d2c"

func webhook(at, name string) mesh.Recipient {
	return mesh.Recipient{Name: mesh.RecipientName(name), Service: notify.Webhook, URL: mesh.NewSecret(at + "/" + planted), Signing: mesh.NewSecret("key")}
}

// TestWebhook_IsSignedAndDocumented: the shape is that of docs/alerts.md.
func TestWebhook_IsSignedAndDocumented(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	now := time.Date(2026, 11, 26, 14, 3, 0, 0, time.UTC)
	w := newWorld(t, func(o *notify.Options) { o.Now = func() time.Time { return now } }, webhook(s.URL, "hook"))
	w.run(t)
	w.add("hook", mesh.NoticeOpened, "web.1 crashed 3 times in a row")
	s.wait(t, 1)
	var got map[string]any
	if err := json.Unmarshal([]byte(s.all()[0]), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"version": 1.0, "id": "apps.example.com-1-opened-1795701783", "event": "opened", "at": "2026-11-26T14:03:03Z", "server": "apps.example.com",
		"text": "ALERT shop: web.1 crashed 3 times in a row\nSince 2026-11-26 14:02:03 UTC, on apps.example.com.\nNext: ssh mesh logs -a shop -n 100",
		"alert": map[string]any{
			"number": 1.0, "kind": "crash", "stack": "shop", "about": "web.1", "text": "web.1 crashed 3 times in a row", "since": "2026-11-26T14:02:03Z",
			"count": 3.0, "next": "ssh mesh logs -a shop -n 100",
		},
	}
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("got  %s\nwant %s", g, w)
	}
	h := s.heads[0]
	if sig := h.Get("Mesh-Signature"); sig != notify.Sign("key", now, []byte(s.all()[0])) || !strings.HasPrefix(sig, "t="+strconv.FormatInt(now.Unix(), 10)+",v1=") {
		t.Errorf("the signature is %q", sig)
	}
	if h.Get("Mesh-Id") != want["id"] || h.Get("User-Agent") != "mesh/1.2.3" || h.Get("Content-Type") != "application/json" {
		t.Errorf("headers: %v", h)
	}
	until(t, "the outbox still has the message", func() bool { return w.waiting() == 0 })
}

// TestSign is the example of docs/alerts.md.
func TestSign(t *testing.T) {
	t.Parallel()
	// printf '1700000000.{"version":1}' | openssl dgst -sha256 -hmac meshwh_example
	if got := notify.Sign("meshwh_example", time.Unix(1700000000, 0), []byte(`{"version":1}`)); got != "t=1700000000,v1=62f3446578e0560b40cf0fd52a6cbf493bf846811b199a7e83cd4d919a369786" {
		t.Errorf("got %s", got)
	}
}

// TestRetry_KeepsTheOrder: a receiver that fails gets everything later, in order, and once
// each as far as it has accepted it.
func TestRetry_KeepsTheOrder(t *testing.T) {
	t.Parallel()
	s := newSink(t, status(500, 503, 429, 500))
	w := newWorld(t, nil, webhook(s.URL, "hook"))
	w.run(t)
	for i := range 5 {
		w.add("hook", mesh.NoticeOpened, fmt.Sprintf("text %d", i))
	}
	s.wait(t, 4+5)
	until(t, "the outbox is not empty", func() bool { return w.waiting() == 0 })
	var order []string
	for _, b := range s.all() {
		order = append(order, b[strings.Index(b, "text "):][:6])
	}
	if got := strings.Join(order, ","); got != "text 0,text 0,text 0,text 0,text 0,text 1,text 2,text 3,text 4" {
		t.Errorf("order: %s", got)
	}
	until(t, "it still counts as failing", func() bool { d := w.Delivery("hook"); return d.Failed.IsZero() && !d.Sent.IsZero() && d.Waiting == 0 })
	if n := strings.Count(w.log.String(), "not delivered"); n != 1 {
		t.Errorf("the log has the failure %d times, want once", n)
	}
}

// TestRefused_IsGivenUp: what a receiver refuses is not tried for a day, and a redirect is
// not followed.
func TestRefused_IsGivenUp(t *testing.T) {
	t.Parallel()
	elsewhere := newSink(t, nil)
	for code, want := range map[int]string{
		404: "it answered 404", 401: "it answered 401", 302: "it answered 302, a redirect to http://" + strings.TrimPrefix(elsewhere.URL, "http://") + ", which mesh does not follow",
		307: "it answered 307, a redirect",
	} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			s := newSink(t, func(_ int, w http.ResponseWriter) {
				w.Header().Set("Location", elsewhere.URL+"/"+planted)
				w.WriteHeader(code)
			})
			w := newWorld(t, nil, webhook(s.URL, "hook"))
			w.run(t)
			w.add("hook", mesh.NoticeOpened, "text")
			until(t, "it is still in the outbox", func() bool { return w.waiting() == 0 })
			until(t, "it is still in the queue", func() bool { return w.Delivery("hook").Waiting == 0 })
			d := w.Delivery("hook")
			if d.Lost != 1 || !strings.HasPrefix(d.Failure, want) || strings.Contains(d.Failure, planted) {
				t.Errorf("%+v", d)
			}
			if n := len(s.all()); n != 3 {
				t.Errorf("%d attempts, want 3", n)
			}
		})
	}
	if n := len(elsewhere.all()); n != 0 {
		t.Errorf("the other server got %d messages", n)
	}
}

// TestHanging_DelaysNobodyElse: a receiver that accepts connections and says nothing
// costs its own messages only, and the end of Run does not wait for it.
func TestHanging_DelaysNobodyElse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	s := newSink(t, nil)
	mail := mesh.Recipient{Name: "mail", Service: notify.Email, URL: mesh.NewSecret("smtp://u:" + planted + "@" + l.Addr().String() + "/?from=a@b.test&to=c@d.test")}
	w := newWorld(t, nil, webhook("http://"+l.Addr().String(), "hangs"), mail, webhook(s.URL, "good"))
	stop := w.run(t)
	w.add("hangs", mesh.NoticeOpened, "text")
	w.add("mail", mesh.NoticeOpened, "text")
	for range 2 {
		defer (<-accepted).Close()
	}
	w.add("good", mesh.NoticeOpened, "text")
	s.wait(t, 1)
	until(t, "the good one is still in the outbox", func() bool { return w.waiting() == 2 })
	start := time.Now()
	stop()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Run ended after %s: it waited for the receiver that hangs", took)
	}
	if n := w.waiting(); n != 2 {
		t.Errorf("%d messages in the outbox, want the two that were not delivered", n)
	}
}

// TestRestart_DeliversWhatIsLeft: the next process delivers what this one has not, and
// nothing twice that a receiver has accepted.
func TestRestart_DeliversWhatIsLeft(t *testing.T) {
	t.Parallel()
	s := newSink(t, status(200, 500))
	w := newWorld(t, func(o *notify.Options) { o.First = time.Hour }, webhook(s.URL, "hook"))
	stop := w.run(t)
	w.add("hook", mesh.NoticeOpened, "text 1")
	w.add("hook", mesh.NoticeOpened, "text 2")
	s.wait(t, 2)
	stop()
	if w.waiting() != 1 {
		t.Fatalf("%d messages wait, want 1", w.waiting())
	}
	next := newWorld(t, nil, webhook(s.URL, "hook"))
	next.outbox = w.outbox
	next.Send(w.outbox) // somebody sends it as well before Run has read it
	next.run(t)
	s.wait(t, 1)
	until(t, "the outbox is not empty", func() bool { return next.waiting() == 0 })
	if all := s.all(); len(all) != 3 || !strings.Contains(all[2], "text 2") || s.heads[1].Get("Mesh-Id") != s.heads[2].Get("Mesh-Id") {
		t.Errorf("%d messages, with ids %q", len(all), s.heads)
	}
}

// TestChats_GetTheirOwnShape, and text that others chose cannot call everyone.
func TestChats_GetTheirOwnShape(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, url string // with HOST for the server
		answer    string
		path      string
		want      []string // in the body
		auth      string
	}{
		{"slack", "slack+http://HOST/services/" + planted, "ok", "/services/" + planted, []string{`{"text":"ALERT shop: it said &lt;!channel&gt; @everyone`}, ""},
		{"discord", "discord+http://HOST/api/webhooks/1/" + planted, "", "/api/webhooks/1/" + planted, []string{`"allowed_mentions":{"parse":[]}`, `"content":"ALERT shop: it said`}, ""},
		{"teams", "teams+http://HOST/workflows/" + planted + "?sig=x", "", "/workflows/" + planted, []string{`"contentType":"application/vnd.microsoft.card.adaptive"`, `"type":"AdaptiveCard"`, `"text":"ALERT shop: it said`}, ""},
		{"telegram", "telegram+http://123:" + planted + "@HOST?chats=-100", `{"ok":true}`, "/bot123:" + planted + "/sendMessage", []string{`"chat_id":"-100"`, `"text":"ALERT shop: it said`}, ""},
		{"ntfy", "ntfy+http://ann:" + planted + "@HOST/topic", "{}", "/", []string{`"topic":"topic"`, `"title":"ALERT shop: it said`, `"priority":4`}, "Basic YW5uOlBsYW50ZWQtOGQyYw=="},
		{"ntfy", "ntfy+http://:tk_" + planted + "@HOST/topic", "{}", "/", []string{`"topic":"topic"`}, "Bearer tk_" + planted},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSink(t, func(_ int, w http.ResponseWriter) { fmt.Fprint(w, c.answer) })
			r := mesh.Recipient{Name: "chat", URL: mesh.NewSecret(strings.ReplaceAll(c.url, "HOST", strings.TrimPrefix(s.URL, "http://")))}
			w := newWorld(t, nil, r)
			service, shown, err := w.Describe(r.URL)
			if err != nil || service != c.name || strings.Contains(shown, planted) {
				t.Fatalf("%s, %s, %v", service, shown, err)
			}
			r.Service = service
			w.recipients = []mesh.Recipient{r}
			w.run(t)
			w.add("chat", mesh.NoticeOpened, "it said <!channel> @everyone\x1b[2J\nsecond line")
			s.wait(t, 1)
			body := s.all()[0]
			body = strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">").Replace(body)
			for _, want := range c.want {
				if !strings.Contains(body, want) {
					t.Errorf("no %s in %s", want, body)
				}
			}
			if strings.Contains(body, `\u001b`) || s.paths[0] != c.path || s.heads[0].Get("Authorization") != c.auth {
				t.Errorf("path %s, authorization %q, body %s", s.paths[0], s.heads[0].Get("Authorization"), body)
			}
			until(t, "not delivered", func() bool { return w.waiting() == 0 })
		})
	}
}

// TestTelegram_AnswersThatItIsNotOK: a 200 is not enough.
func TestTelegram_AnswersThatItIsNotOK(t *testing.T) {
	t.Parallel()
	s := newSink(t, func(_ int, w http.ResponseWriter) {
		fmt.Fprint(w, `{"ok":false,"description":"chat not found for `+planted+`"}`)
	})
	r := mesh.Recipient{Name: "chat", Service: notify.Telegram, URL: mesh.NewSecret("telegram+http://123:" + planted + "@" + strings.TrimPrefix(s.URL, "http://") + "?chats=1")}
	err := newWorld(t, nil, r).Test(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "chat not found") || strings.Contains(err.Error(), planted) {
		t.Errorf("%v", err)
	}
}

// TestDigest: a storm of alerts is one message to people, and each one to a program.
func TestDigest(t *testing.T) {
	t.Parallel()
	chat, hook := newSink(t, status(500)), newSink(t, nil)
	r := mesh.Recipient{Name: "chat", Service: notify.Slack, URL: mesh.NewSecret("slack+" + chat.URL + "/x")}
	w := newWorld(t, func(o *notify.Options) { o.First = time.Hour }, r, webhook(hook.URL, "hook"))
	w.run(t)
	w.add("chat", mesh.NoticeOpened, "text 0")
	chat.wait(t, 1)
	for i := range 30 {
		w.add("chat", mesh.NoticeOpened, fmt.Sprintf("text %d", i+1))
		w.add("hook", mesh.NoticeOpened, fmt.Sprintf("text %d", i+1))
	}
	hook.wait(t, 30)
	if err := w.Test(t.Context(), r); err != nil { // tries the rest at once
		t.Fatal(err)
	}
	chat.wait(t, 2)
	until(t, "the outbox is not empty", func() bool { return w.waiting() == 0 })
	all := chat.all()
	last := all[len(all)-1]
	if len(all) != 3 || !strings.Contains(last, "31 alerts from mesh on apps.example.com") || !strings.Contains(last, "text 19") || strings.Contains(last, "text 20") || !strings.Contains(last, "and 11 more") {
		t.Errorf("%d messages, the last: %s", len(all), last)
	}
}

// TestQueue_IsBounded: the oldest messages to a receiver that is away are given up.
func TestQueue_IsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, webhook("http://127.0.0.1:1", "hook"))
	for i := range 130 {
		w.add("hook", mesh.NoticeOpened, strconv.Itoa(i))
	}
	if d := w.Delivery("hook"); d.Waiting != 100 || d.Lost != 30 {
		t.Errorf("%+v, want 100 waiting and 30 lost", d)
	}
}

// A fenced recipient cannot be at a private address, by HTTP or by mail, and its author does
// not see what is answered there.
func TestFenced_ReachesNoPrivateAddress(t *testing.T) {
	t.Parallel()
	s := newSink(t, func(_ int, w http.ResponseWriter) {
		w.WriteHeader(500)
		fmt.Fprint(w, "inside information")
	})
	fence := func(o *notify.Options) {
		o.Dial = func(context.Context, string, string) (net.Conn, error) {
			return nil, mesh.Errorf(mesh.Denied, "127.0.0.1 is the server itself: builds may not fetch from there")
		}
	}
	for _, r := range []mesh.Recipient{
		{Name: "hook", Service: notify.Webhook, URL: mesh.NewSecret(s.URL + "/x")},
		{Name: "mail", Service: notify.Email, URL: mesh.NewSecret("smtp://" + strings.TrimPrefix(s.URL, "http://") + "/?from=a@b.test&to=c@d.test")},
	} {
		r.Fenced = true
		err := newWorld(t, fence, r).Test(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), "127.0.0.1 is the server itself: only an admin can add a recipient there") || len(s.all()) > 0 {
			t.Errorf("%s: %v, %d requests", r.Name, err, len(s.all()))
		}
	}
	check := func(o *notify.Options) {
		o.Check = func(_ context.Context, host string) error {
			if host != "127.0.0.1" {
				t.Errorf("checked %q", host)
			}
			return mesh.Errorf(mesh.Denied, "127.0.0.1 is the server itself: builds may not fetch from there")
		}
	}
	for _, u := range []string{s.URL + "/x", "smtp://127.0.0.1/?from=a@b.test&to=c@d.test"} {
		r := mesh.Recipient{Name: "x", URL: mesh.NewSecret(u), Fenced: true}
		if err := newWorld(t, check, r).Allow(t.Context(), r); !errors.Is(err, mesh.Denied) || !strings.Contains(err.Error(), "only an admin") {
			t.Errorf("%s is allowed: %v", u, err)
		}
		r.Fenced = false
		if err := newWorld(t, check, r).Allow(t.Context(), r); err != nil {
			t.Errorf("an admin's: %v", err)
		}
	}
	open := mesh.Recipient{Name: "hook", Service: notify.Webhook, Fenced: true, URL: mesh.NewSecret(s.URL + "/x")}
	if err := newWorld(t, nil, open).Test(t.Context(), open); err == nil || strings.Contains(err.Error(), "inside") {
		t.Errorf("it quotes an answer: %v", err)
	}
}

// TestErrors_ContainNoSecret: whatever fails, neither the error nor the log has the URL.
func TestErrors_ContainNoSecret(t *testing.T) {
	t.Parallel()
	s := newSink(t, func(_ int, w http.ResponseWriter) {
		w.WriteHeader(400)
		fmt.Fprint(w, "bad token "+planted+" in "+strings.ReplaceAll(planted, "-", "%2D"))
	})
	host := strings.TrimPrefix(s.URL, "http://")
	for _, url := range []string{
		s.URL + "/" + planted, "http://127.0.0.1:1/" + planted, "https://" + host + "/" + planted, "http://nosuch.invalid/" + planted,
		"http://u:" + planted + "@127.0.0.1:1/x", "http://127.0.0.1:1/x?token=" + planted, "telegram+http://1:" + planted + "@127.0.0.1:1?chats=1",
		"slack+http://" + host + "/" + planted, "smtp://u:" + planted + "@127.0.0.1:1/?from=a@b.test&to=c@d.test", "http://127.0.0.1:99999/" + planted,
	} {
		r := mesh.Recipient{Name: "x", URL: mesh.NewSecret(url)}
		w := newWorld(t, nil, r)
		r.Service, _, _ = w.Describe(r.URL)
		w.recipients[0] = r
		err := w.Test(t.Context(), r)
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Failed || strings.Contains(fmt.Sprintf("%+v %v", e, errors.Unwrap(err)), planted) {
			t.Errorf("%s: %v", url, err)
		}
		stop := w.run(t)
		w.add("x", mesh.NoticeOpened, "text")
		until(t, "no attempt", func() bool { return w.Delivery("x").Failure != "" })
		stop()
		if d := w.Delivery("x"); strings.Contains(d.Failure+w.log.String(), planted) {
			t.Errorf("%s: %q, log %s", url, d.Failure, w.log.String())
		}
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	for url, want := range map[string]string{
		"https://hooks.slack.com/services/T0/B0/" + planted:                                     "slack https://hooks.slack.com/••••••",
		"slack://hook:T0-B0-" + planted[:7] + "@webhook":                                        "slack https://hooks.slack.com/••••••",
		"https://discord.com/api/webhooks/1/" + planted:                                         "discord https://discord.com/••••••",
		"discord://" + planted + "@12345":                                                       "discord https://discord.com/••••••",
		"https://prod-1.westeurope.logic.azure.com/workflows/x?sig=" + planted:                  "teams https://prod-1.westeurope.logic.azure.com/••••••",
		"telegram://1:" + planted + "@telegram?chats=-100":                                      "telegram https://api.telegram.org chat -100",
		"https://api.telegram.org/bot1:" + planted + "/sendMessage?chat_id=-100":                "telegram https://api.telegram.org chat -100",
		"ntfy://ntfy.sh/" + planted:                                                             "ntfy https://ntfy.sh/••••••",
		"https://ntfy.sh/" + planted:                                                            "ntfy https://ntfy.sh/••••••",
		"https://example.com/" + planted:                                                        "webhook https://example.com/••••••",
		"https://example.com":                                                                   "webhook https://example.com",
		"HTTPS://u:" + planted + "@Example.com:8443/x#" + planted:                               "webhook https://Example.com:8443/••••••",
		"slack+https://chat.example.com/hooks/" + planted:                                       "slack https://chat.example.com/••••••",
		"smtps://u:" + planted + "@mail.example.com/?from=m@example.com&to=a@b.test,c+d@b.test": "email a@b.test, c+d@b.test via mail.example.com",
	} {
		service, shown, err := w.Describe(mesh.NewSecret(url))
		if got := service + " " + shown; err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", url, got, err, want)
		}
	}
	for url, want := range map[string]string{
		"": "not a URL", planted: "not a URL", "https:///" + planted: "no host", "https://" + planted + " x/": "not a URL", "ftp://" + planted: `begins with "ftp:"`,
		"teams://" + planted: `begins with "teams:"`, "telegram://" + planted + "@telegram": "one chat", "telegram://1:" + planted + "@telegram?chats=1,2": "one chat",
		"telegram://1:" + planted + "@elsewhere?chats=1": "host of a telegram: URL", "slack://" + planted + "@webhook": "not a Slack webhook", "discord://" + planted: "not a Discord webhook",
		"ntfy://ntfy.sh": "no ntfy topic", "smtp://" + planted: "from=", "smtp://h:0/?from=a@b.test&to=c@d.test": "port", "smtp://h/?from=a@b.test&to=" + planted: "not a list of mail addresses",
		"https://x/" + strings.Repeat("a", 2000): "at most 2000 bytes", "javascript:" + planted: "not a URL", "file:///" + planted: `begins with "file:"`,
		"https://x/\n" + planted: "not a URL",
	} {
		_, _, err := w.Describe(mesh.NewSecret(url))
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Invalid || !strings.Contains(e.Text, want) || e.Hint == "" {
			t.Errorf("%s: %v, want %q and a hint", url, err, want)
		} else if strings.Contains(e.Text+e.Hint, planted) && !strings.Contains(url, "to="+planted) {
			t.Errorf("%s: the error quotes it: %v", url, err)
		}
	}
}

// FuzzDescribe checks that Describe never shows the password in a URL, and returns one line.
func FuzzDescribe(f *testing.F) {
	for _, s := range []string{"https://u:secret-pw@h/p?q=1", "smtp://u:secret-pw@h/?from=a@b.test&to=c@d.test", "telegram://1:secret-pw@telegram?chats=1", "slack+http://h", "ntfy:///t", "://", "a+b://c"} {
		f.Add(s)
	}
	n := notify.New(notify.Options{})
	f.Fuzz(func(t *testing.T, s string) {
		service, shown, err := n.Describe(mesh.NewSecret(s))
		if (err == nil) != (service != "") || (err == nil) != (shown != "") || shown != mesh.Visible(shown) {
			t.Fatalf("%q: %q, %q, %v", s, service, shown, err)
		}
		u, perr := url.Parse(strings.TrimSpace(s))
		if perr != nil || u.User == nil {
			return
		}
		if pw, _ := u.User.Password(); len(pw) >= 8 && strings.Count(s, pw) == 1 && strings.Contains(shown, pw) {
			t.Errorf("%q: shows the password: %q", s, shown)
		}
	})
}
