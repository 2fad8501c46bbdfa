package detect

import "strings"

// ends are the days on which lines of languages got their last security fixes, for those
// that have had them (https://endoflife.date).
var ends = map[string]string{
	"Node 12": "2022-04-30", "Node 14": "2023-04-30", "Node 16": "2023-09-11", "Node 17": "2022-06-01", "Node 18": "2025-04-30", "Node 19": "2023-06-01",
	"Node 20": "2026-04-30", "Node 21": "2024-06-01", "Node 23": "2025-06-01", "Node 25": "2026-06-01",
	"Python 3.6": "2021-12-23", "Python 3.7": "2023-06-27", "Python 3.8": "2024-10-07", "Python 3.9": "2025-10-31", "Python 3.10": "2026-10-31",
	"Ruby 2.6": "2022-04-12", "Ruby 2.7": "2023-03-31", "Ruby 3.0": "2024-04-23", "Ruby 3.1": "2025-03-26", "Ruby 3.2": "2026-03-31",
	"PHP 7.3": "2021-12-06", "PHP 7.4": "2022-11-28", "PHP 8.0": "2023-11-26", "PHP 8.1": "2025-12-31",
}

// ended records that a version gets no fixes any more.
func (p *plan) ended(language, version string) {
	n := 2
	if strings.HasSuffix(language, "Node") {
		language, n = "Node", 1
	}
	if day := ends[language+" "+lines(version, n)]; day != "" {
		p.found("gets no security fixes", language+" "+lines(version, n)+" reached its end of life on "+day)
	}
}
