package command

import (
	"fmt"
	"io"
	"strings"

	"mesh"
)

// least is the minimum width of a column that is made narrower.
const least = 8

// fit makes columns narrower until a table fits into a width: the widest first, and
// never the first column, which names the row.
func fit(width []int, into int) {
	if into <= 0 {
		return
	}
	total := 2 * (len(width) - 1)
	for _, w := range width {
		total += w
	}
	for total > into {
		widest := -1
		for i := 1; i < len(width); i++ {
			if width[i] > least && (widest < 0 || width[i] >= width[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		width[widest]--
		total--
	}
}

// table prints rows in columns: the heading to stderr, the data to stdout. On a screen
// it fits the width.
func (c *call) table(heading []string, rows [][]string) {
	width := make([]int, len(heading))
	for _, r := range append([][]string{heading}, rows...) {
		for i, cell := range r {
			r[i] = mesh.Visible(cell) // one row is one line
			cell = r[i]
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	fit(width, c.view.width)
	line := func(w io.Writer, r []string, paint func(cell, text string) string) {
		var b strings.Builder
		pad := 0
		for i, cell := range r {
			text := []rune(cell)
			if len(text) > width[i] {
				text = append(text[:width[i]-1], '…')
			}
			if len(text) > 0 {
				b.WriteString(strings.Repeat(" ", pad))
				b.WriteString(paint(cell, string(text)))
				pad = 0
			}
			pad += width[i] - len(text) + 2
		}
		_, _ = fmt.Fprintln(w, b.String())
	}
	line(c.Stderr, heading, func(_, text string) string {
		if c.view.colour {
			return "\x1b[" + bold + "m" + text + "\x1b[0m"
		}
		return text
	})
	for _, r := range rows {
		line(c.Stdout, r, c.paint)
	}
}
