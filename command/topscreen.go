package command

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"mesh"
)

// topEvery is how often top looks again.
const topEvery = 2 * time.Second

// watchTop shows top on the session's terminal until the viewer quits.
func (c *call) watchTop(ctx context.Context, v topView) error {
	m := &topModel{call: c, ctx: ctx, view: v, width: 80, height: 24}
	m.resize(c.Size)
	if m.look(); m.err != nil {
		return topError(ctx, m.err)
	}
	profile := colorprofile.ANSI
	if !c.view.colour {
		profile = colorprofile.ASCII
	}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(c.Stdin), tea.WithOutput(crlf{c.raw}), tea.WithoutSignalHandler(),
		tea.WithEnvironment([]string{"TERM=xterm-256color"}), tea.WithWindowSize(m.width, m.height), tea.WithColorProfile(profile))
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s, ok := <-c.Resize:
				if !ok {
					return
				}
				if s.Width > 0 && s.Height > 0 {
					p.Send(tea.WindowSizeMsg{Width: s.Width, Height: s.Height})
				}
			case <-done:
				return
			}
		}
	}()
	_, err := p.Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case m.err != nil:
		return topError(ctx, m.err)
	}
	return err
}

// topModel is top on a screen. bubbletea calls its methods one after the other.
type topModel struct {
	call          *call
	ctx           context.Context //nolint:containedctx // of the session, which the program ends with
	view          topView
	lines         []topLine
	at            time.Time
	err           error
	width, height int
	first         int  // of the lines on the screen
	typing        bool // a filter
}

// resize takes over the size of the screen, unless the terminal does not know it.
func (m *topModel) resize(s mesh.WindowSize) {
	if s.Width > 0 && s.Height > 0 {
		m.width, m.height = s.Width, s.Height
	}
}

type topTick struct{}

func tick() tea.Cmd { return tea.Tick(topEvery, func(time.Time) tea.Msg { return topTick{} }) }

// look reads the lines again.
func (m *topModel) look() {
	m.lines, m.err = m.call.topLines(m.ctx, m.view)
	m.at = m.call.Now()
}

// Init implements tea.Model.
func (m *topModel) Init() tea.Cmd { return tick() }

// Update implements tea.Model.
func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.resize(mesh.WindowSize{Width: msg.Width, Height: msg.Height})
	case topTick:
		if m.look(); m.err != nil {
			return m, tea.Quit
		}
		return m, tick()
	case tea.KeyPressMsg:
		if m.press(msg.String(), msg.Text) {
			return m, tea.Quit
		}
		if m.look(); m.err != nil {
			return m, tea.Quit
		}
	}
	return m, nil
}

// press does what a key says; true means to quit.
func (m *topModel) press(key, text string) bool {
	if key == "ctrl+c" {
		return true
	}
	if m.typing {
		switch key {
		case "enter":
			m.typing = false
		case "esc":
			m.typing, m.view.filter = false, ""
		case "backspace":
			if r := []rune(m.view.filter); len(r) > 0 {
				m.view.filter = string(r[:len(r)-1])
			}
		default:
			if len(m.view.filter) < 60 {
				m.view.filter += mesh.Visible(text)
			}
		}
		m.first = 0
		return false
	}
	switch key {
	case "q", "esc":
		return true
	case "/":
		m.typing, m.view.filter, m.first = true, "", 0
	case "i", "s":
		m.view.stacks, m.first = !m.view.stacks, 0
	case "down", "j":
		m.first++
	case "up", "k":
		m.first--
	case "pgdown", "space":
		m.first += m.rows()
	case "pgup":
		m.first -= m.rows()
	case "home":
		m.first = 0
	}
	for _, o := range topOrders {
		if o.key == key {
			m.view.order, m.first = o.name, 0
		}
	}
	return false
}

// rows returns how many lines fit: all but the first two, the heading and the last.
func (m *topModel) rows() int { return max(m.height-4, 1) }

// View implements tea.Model.
func (m *topModel) View() tea.View {
	v := tea.NewView(m.draw())
	v.AltScreen = true
	return v
}

// draw returns the screen.
func (m *topModel) draw() string {
	m.first = max(min(m.first, len(m.lines)-m.rows()), 0)
	var total mesh.Measure
	for _, l := range m.lines {
		total.Beside(l.measure)
	}
	var b bytes.Buffer
	what := "instance"
	if m.view.stacks {
		what = "stack"
	}
	if len(m.lines) != 1 {
		what += "s"
	}
	fmt.Fprintf(&b, "mesh top %s   %d %s, %.1f requests/s, p95 %s, CPU %s, memory %s\n\n", m.at.UTC().Format("15:04:05"), len(m.lines), what,
		total.Rate(), shortTime(total.Latency.Quantile(95)), percent(total.Cores()), shortBytes(total.Memory))
	heading, rows := topTable(m.lines, m.view)
	for i, h := range heading {
		for _, o := range topOrders {
			if o.name == m.view.order && o.head == h {
				heading[i] += "▼"
			}
		}
	}
	rows = rows[m.first:min(m.first+m.rows(), len(rows))]
	shown := *m.call
	shown.view.width = m.width
	shown.Stdout, shown.Stderr = &b, &b
	shown.table(heading, rows)
	if len(rows) == 0 {
		b.WriteString("nothing of that name\n")
	}
	b.WriteString(strings.Repeat("\n", max(m.rows()-max(len(rows), 1), 0)))
	switch {
	case m.typing:
		fmt.Fprintf(&b, "filter: %s_   enter keeps it, esc clears it", m.view.filter)
	case m.view.filter != "":
		fmt.Fprintf(&b, "only %q   / filter  q quit", m.view.filter)
	default:
		b.WriteString("sort: c CPU  m memory  r requests  p p95  e errors  n name   i stacks  / filter  q quit")
	}
	lines := strings.Split(b.String(), "\n")
	for _, i := range []int{0, len(lines) - 1} { // the table fits already
		lines[i] = mesh.Clip(lines[i], max(m.width, 1))
	}
	return strings.Join(lines, "\n")
}
