package admin

import "strings"

// barWidth is the number of characters within a bar.
const barWidth = 24

// bar draws how much is done, from 0 to 1. It is full only when all is.
func bar(done float64) string {
	full := min(barWidth, max(0, int(done*barWidth)))
	if full == barWidth {
		return "[" + strings.Repeat("=", barWidth) + "]"
	}
	return "[" + strings.Repeat("=", full) + ">" + strings.Repeat(" ", barWidth-full-1) + "]"
}
