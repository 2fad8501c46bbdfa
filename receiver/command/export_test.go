package command

import "github.com/spf13/pflag"

// Row is a command of the table, for tests that try all of them.
type Row struct {
	Name  string
	Stack bool
	Flags []string // its options that take a text
}

// Rows lists the table.
func Rows() (rows []Row) {
	for _, d := range table() {
		r := Row{Name: d.name(), Stack: d.stack}
		if d.flags != nil {
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			d.flags(fs)
			fs.VisitAll(func(f *pflag.Flag) {
				if f.Value.Type() != "bool" {
					r.Flags = append(r.Flags, f.Name)
				}
			})
		}
		rows = append(rows, r)
	}
	return rows
}
