package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// near is a question whether one of the names that look like what was typed was meant; empty when none does. What counts as
// alike for commands counts for names as well.
func near(typed string, names []string) string {
	all := &cobra.Command{SuggestionsMinimumDistance: 2}
	for _, name := range names {
		if name != "" && !strings.ContainsAny(name, " \t") {
			all.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
		}
	}
	return didYouMean(all.SuggestionsFor(typed))
}

// maxNear keeps the question short where hundreds of names begin alike.
const maxNear = 3

func didYouMean(names []string) string {
	if len(names) == 0 {
		return ""
	}
	if len(names) > maxNear {
		names = names[:maxNear]
	}
	return "did you mean " + plain(strings.Join(names, " or ")) + "? else "
}
