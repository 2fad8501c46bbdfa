package drains

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	collect "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"mesh"
)

// httpSender posts lines. A 2xx answer means that the receiver has them.
type httpSender struct {
	d       *drain
	client  *http.Client
	kind    string // Content-Type
	encode  func(stack mesh.StackName, lines []mesh.LogLine) ([]byte, error)
	refused func(answer []byte) (lines int, why string) // of a 2xx answer; nil: none
}

// maxBody is how many bytes of text a request has at most, unless one line has more.
// Loki takes 4 MB, and common receivers of JSON 5 MB.
const maxBody = 1 << 20

// maxAnswer is how much of an answer is read.
const maxAnswer = 64 << 10

func (s *httpSender) send(ctx context.Context, stack mesh.StackName, lines []mesh.LogLine) (refused int, err error) {
	for len(lines) > 0 {
		n, size := 0, 0
		for n < len(lines) && (n == 0 || size+len(lines[n].Text) <= maxBody) {
			size += len(lines[n].Text) + 100
			n++
		}
		no, err := s.post(ctx, stack, lines[:n])
		if err != nil {
			return refused, err
		}
		refused += no
		lines = lines[n:]
	}
	return refused, nil
}

func (s *httpSender) post(ctx context.Context, stack mesh.StackName, lines []mesh.LogLine) (refused int, err error) {
	body, err := s.encode(stack, lines)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	u := *s.d.url
	u.User = nil
	u.Scheme = u.Scheme[strings.LastIndexByte(u.Scheme, '+')+1:]
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", s.kind)
	req.Header.Set("User-Agent", "mesh/"+s.d.o.Version)
	if user := s.d.url.User; user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	for _, h := range s.d.Headers {
		name, value, _ := strings.Cut(h.Reveal(), ":")
		req.Header.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	switch {
	case res.StatusCode/100 == 2:
		if s.refused != nil {
			refused, _ = s.refused(answer)
		}
		return min(refused, len(lines)), nil
	case res.StatusCode == http.StatusRequestEntityTooLarge && len(lines) > 1:
		half := len(lines) / 2
		one, err := s.post(ctx, stack, lines[:half])
		if err != nil {
			return one, err
		}
		two, err := s.post(ctx, stack, lines[half:])
		return one + two, err
	}
	return 0, &answered{code: res.StatusCode, text: s.d.quote(answer), after: mesh.RetryAfter(res.Header.Get("Retry-After"), maxRetryAfter)}
}

// answered is an answer that is no success.
type answered struct {
	code  int
	text  string
	after time.Duration // the receiver asks to wait; 0: it does not
}

func (a *answered) Error() string {
	s := fmt.Sprintf("it answers %d %s", a.code, http.StatusText(a.code))
	if a.text != "" {
		s += ": " + a.text
	}
	return s
}

// hopeless reports whether the same lines will be refused again: the receiver cannot read
// them. Other refusals, such as a wrong token, may be mended.
func (a *answered) hopeless() bool {
	return a.code == http.StatusBadRequest || a.code == http.StatusRequestEntityTooLarge || a.code == http.StatusUnprocessableEntity
}

// maxRetryAfter is how long a receiver may ask to wait.
const maxRetryAfter = 5 * time.Minute

// lineJSON is a line of NDJSON. docs/observability.md describes it.
type lineJSON struct {
	At      time.Time `json:"at"`
	Stack   string    `json:"stack"`
	Source  string    `json:"source"`
	Name    string    `json:"name"`
	Release string    `json:"release,omitempty"`
	Level   string    `json:"level,omitempty"`
	Text    string    `json:"text"`
}

func ndjson(stack mesh.StackName, lines []mesh.LogLine) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, l := range lines {
		out := lineJSON{At: l.At, Stack: string(stack), Source: l.Source, Name: l.Name, Level: l.Level.String(), Text: l.Text}
		if l.Release != 0 {
			out.Release = l.Release.String()
		}
		if err := e.Encode(out); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// loki is the body of Loki's push API: one stream for each source and instance.
func loki(stack mesh.StackName, lines []mesh.LogLine) ([]byte, error) {
	type stream struct {
		Labels map[string]string `json:"stream"`
		Values [][2]string       `json:"values"`
	}
	var streams []*stream
	byKey := map[string]*stream{}
	for _, l := range lines {
		key := l.Source + " " + l.Name + " " + l.Level.String()
		s := byKey[key]
		if s == nil {
			s = &stream{Labels: map[string]string{"stack": string(stack), "source": l.Source, "instance": l.Name}}
			if service, _, ok := strings.Cut(l.Name, "."); ok {
				s.Labels["service"] = service
			}
			if l.Level != 0 {
				s.Labels["level"] = l.Level.String()
			}
			byKey[key] = s
			streams = append(streams, s)
		}
		s.Values = append(s.Values, [2]string{strconv.FormatInt(l.At.UnixNano(), 10), l.Text})
	}
	return json.Marshal(map[string]any{"streams": streams})
}

// severityNumbers are those of the OpenTelemetry log data model.
var severityNumbers = map[mesh.LogLevel]logspb.SeverityNumber{
	mesh.LevelDebug: logspb.SeverityNumber_SEVERITY_NUMBER_DEBUG, mesh.LevelInfo: logspb.SeverityNumber_SEVERITY_NUMBER_INFO,
	mesh.LevelNotice: logspb.SeverityNumber_SEVERITY_NUMBER_INFO2, mesh.LevelWarn: logspb.SeverityNumber_SEVERITY_NUMBER_WARN,
	mesh.LevelError: logspb.SeverityNumber_SEVERITY_NUMBER_ERROR, mesh.LevelFatal: logspb.SeverityNumber_SEVERITY_NUMBER_FATAL,
}

func attribute(key, value string) *common.KeyValue {
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: value}}}
}

// otlp is an ExportLogsServiceRequest: a resource for each instance, with the names of
// OpenTelemetry's semantic conventions.
func otlp(host string) func(mesh.StackName, []mesh.LogLine) ([]byte, error) {
	return func(stack mesh.StackName, lines []mesh.LogLine) ([]byte, error) {
		req := &collect.ExportLogsServiceRequest{}
		byName := map[string]*logspb.ScopeLogs{}
		for _, l := range lines {
			scope := byName[l.Name]
			if scope == nil {
				scope = &logspb.ScopeLogs{Scope: &common.InstrumentationScope{Name: "mesh"}}
				byName[l.Name] = scope
				service, _, _ := strings.Cut(l.Name, ".")
				req.ResourceLogs = append(req.ResourceLogs, &logspb.ResourceLogs{
					Resource: &resource.Resource{Attributes: []*common.KeyValue{
						attribute("service.namespace", string(stack)), attribute("service.name", service),
						attribute("service.instance.id", instance(stack, l)), attribute("host.name", host),
					}},
					ScopeLogs: []*logspb.ScopeLogs{scope},
				})
			}
			at := uint64(max(0, l.At.UnixNano())) //nolint:gosec // not negative
			r := &logspb.LogRecord{
				TimeUnixNano: at, ObservedTimeUnixNano: at, SeverityNumber: severityNumbers[l.Level], SeverityText: l.Level.String(),
				Body:       &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(l.Text, "\uFFFD")}},
				Attributes: []*common.KeyValue{attribute("mesh.source", l.Source)},
			}
			if l.Release != 0 {
				r.Attributes = append(r.Attributes, attribute("service.version", l.Release.String()))
			}
			scope.LogRecords = append(scope.LogRecords, r)
		}
		return proto.Marshal(req)
	}
}

// otlpRefused reads the partial success of an answer.
func otlpRefused(answer []byte) (int, string) {
	var res collect.ExportLogsServiceResponse
	if proto.Unmarshal(answer, &res) != nil {
		return 0, ""
	}
	p := res.GetPartialSuccess()
	return int(max(0, p.GetRejectedLogRecords())), p.GetErrorMessage()
}
