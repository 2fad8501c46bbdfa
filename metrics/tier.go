package metrics

import (
	"time"
)

// A tier is one resolution at which measures are kept.
type tier struct {
	file   string        // its name in the folder of a stack
	step   time.Duration // of a point
	keep   int64         // points
	block  int64         // points that are compressed together
	budget int64         // bytes of the file after its oldest blocks are gone
	whole  bool          // instances are added up to their services
}

// tiers are the resolutions, from fine to coarse: 10 s for a day, a minute for two
// weeks, 15 minutes for a year. The steps divide each other. A file grows by at most
// a sixteenth beyond its budget before it is shortened, so a stack takes less than 2 MB.
var tiers = [...]tier{
	{file: "10s", step: 10 * time.Second, keep: 8640, block: 360, budget: 400_000},
	{file: "1m", step: time.Minute, keep: 20160, block: 720, budget: 700_000},
	{file: "15m", step: 15 * time.Minute, keep: 35040, block: 672, budget: 750_000, whole: true},
}

// maxRows is how many services and instances of a stack have measures of their own. The
// others are added up in one row without a name.
const maxRows = 100
