package api

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTable is the half of case A01 that the sweeps cannot see, since they ask the table itself what to expect: each row is as it
// was reviewed, in every column.
func TestTable(t *testing.T) {
	var text strings.Builder
	for _, procedure := range slices.Sorted(maps.Keys(rules)) {
		fmt.Fprintln(&text, strings.TrimPrefix(procedure, "/chom."), strings.Join(columnsOf(rules[procedure]), ", "))
	}
	file := filepath.Join("testdata", "table.txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		must(t, os.WriteFile(file, []byte(text.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	reviewed := strings.Split(string(want), "\n")
	for line := range strings.SplitSeq(text.String(), "\n") {
		if !slices.Contains(reviewed, line) {
			t.Errorf("not as reviewed (UPDATE_GOLDEN=1 writes %s anew): %s", file, line)
		}
	}
	if strings.Count(text.String(), "\n") != len(reviewed)-1 {
		t.Errorf("%s has other methods than the table", file)
	}
}

// columnsOf is a row in words.
func columnsOf(r rule) []string {
	columns := []string{[]string{"nobody", "anybody", "signed in", "operators", "members"}[r.who]}
	if r.who == inOrganization {
		columns = append(columns, "from "+string(r.role), []string{"all sites", "the site", "sites in reach"}[r.sites])
	}
	if r.who != anybody {
		columns = append(columns, "scope "+r.scope.String())
	}
	for _, is := range []struct {
		so   bool
		word string
	}{
		{r.fresh, "fresh"}, {r.session, "with a session"}, {r.inPerson, "in person"}, {r.bounded, "within bounds"}, {r.secret, "shows a secret"},
	} {
		if is.so {
			columns = append(columns, is.word)
		}
	}
	if r.class != "" {
		columns = append(columns, r.class)
	}
	return columns
}
