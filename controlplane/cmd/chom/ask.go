package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// yesFlag adds --yes to a command that destroys something.
func yesFlag(cmd *cobra.Command, yes *bool) *cobra.Command {
	cmd.Flags().BoolVar(yes, "yes", false, "do it without asking")
	return cmd
}

// confirm has a person type the name of what a command takes away. Without a terminal nobody can be asked: it refuses then.
func (p *program) confirm(yes bool, consequence, name string) error {
	if yes {
		return nil
	}
	terminal := p.person()
	if terminal == nil {
		return &problem{code: exitUsage, text: consequence + ", which nobody has confirmed", next: "repeat it with --yes if that is what you want"}
	}
	fmt.Fprintf(p.err, "%s.\nType %s to go on: ", consequence, plain(name))
	typed, err := bufio.NewReader(terminal).ReadString('\n')
	if err != nil && err != io.EOF { //nolint:errorlint // io.Reader promises io.EOF itself
		return fmt.Errorf("read from the terminal: %w", err)
	}
	if strings.TrimSpace(typed) != name {
		return &problem{code: exitFailed, text: "that is not its name; nothing was done"}
	}
	return nil
}

// choosePassword reads a password that is being chosen: twice on a terminal, where a slip does not show.
func (p *program) choosePassword() (string, error) {
	password, err := p.secret("New password: ")
	if err != nil || p.person() == nil {
		return password, err
	}
	again, err := p.secret("The same again: ")
	if err == nil && again != password {
		err = &problem{code: exitUsage, text: "these are two different passwords; nothing was done"}
	}
	return password, err
}

// linkSecret is the secret in a mailed link: what stands behind its "#". The secret alone will do.
func linkSecret(text string) string {
	_, secret, found := strings.Cut(text, "#")
	if !found {
		return text
	}
	return secret
}

// lasting is a duration in a flag: 30d, or what Go knows, as 12h or 90m.
func lasting(flag, text string) (time.Duration, error) {
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, usagef("--%s takes a duration, for example 30d or 12h", flag)
	}
	return d, nil
}

// lifetime is how long something is to work; nil where nothing is said.
func lifetime(flag, text string) (*durationpb.Duration, error) {
	if text == "" {
		return nil, nil
	}
	d, err := lasting(flag, text)
	if err != nil {
		return nil, err
	}
	return durationpb.New(d), nil
}

// moment is a time in a flag: a date, a time with its zone, or how long ago; nil where nothing is said.
func moment(flag, text string, now time.Time) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return timestamppb.New(t), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return timestamppb.New(t), nil
	}
	d, err := lasting(flag, text)
	if err != nil {
		return nil, usagef("--%s takes a date as 2026-01-31, a time as 2026-01-31T08:00:00Z, or how long ago, as 7d or 12h", flag)
	}
	return timestamppb.New(now.Add(-d)), nil
}

// newest collects the newest things of a list that is given in pages, as many as a person wants to see.
func newest[T any](limit int, next func(size int32, token string) (items []T, following string, err error)) ([]T, error) {
	if limit < 1 {
		return nil, usagef("--limit must be at least 1")
	}
	var all []T
	for token := ""; ; {
		items, following, err := next(int32(min(limit-len(all), largestPage)), token)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if following == "" || len(all) >= limit {
			return all, nil
		}
		token = following
	}
}

func limitFlag(cmd *cobra.Command, limit *int) *cobra.Command {
	cmd.Flags().IntVar(limit, "limit", 50, "most of them to show, the newest")
	return cmd
}

// only is the one thing that people call so. Names of some things are not unique: an id always is.
func only[T any](all []T, what, nameOrID, seeThem string, id, name func(T) string) (T, error) {
	var found []T
	for _, one := range all {
		if id(one) == nameOrID {
			return one, nil
		}
		if name(one) == nameOrID {
			found = append(found, one)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		var none T
		return none, notFoundf("see them with: "+seeThem, "there is no %s %q", what, plain(nameOrID))
	}
	return found[0], &problem{code: exitUsage, text: fmt.Sprintf("there are several: %s %q", what, plain(nameOrID)), next: "name it by its id; see them with: " + seeThem}
}

// inOrganization is the organization that an argument names.
func (p *program) inOrganization(ctx context.Context, c *client, nameOrID string) (string, error) {
	p.organization = nameOrID
	return p.organizationID(ctx, c)
}

// siteIDs are the sites with names or ids in an organization.
func (c *client) siteIDs(ctx context.Context, organization string, namesOrIDs []string) ([]string, error) {
	if len(namesOrIDs) == 0 {
		return nil, nil
	}
	all, err := c.allSites(ctx, organization, true)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(namesOrIDs))
	for i, nameOrID := range namesOrIDs {
		found := false
		for _, s := range all {
			if s.GetName() == nameOrID || s.GetId() == nameOrID {
				ids[i], found = s.GetId(), true
				break
			}
		}
		if !found {
			return nil, notFoundf("see them with: chom site list", "there is no site %q", plain(nameOrID))
		}
	}
	return ids, nil
}

// word is the value that a person's word stands for. The error lists the words in the order of their values.
func word[E ~int32](what, text string, words map[string]E) (E, error) {
	if value, known := words[text]; known {
		return value, nil
	}
	all := slices.SortedFunc(maps.Keys(words), func(a, b string) int { return int(words[a]) - int(words[b]) })
	return 0, usagef("%s must be one of: %s", what, strings.Join(all, ", "))
}

// reached says which sites something reaches.
func reached(all bool, sites []string) string {
	if all {
		return "all"
	}
	if len(sites) == 0 {
		return "none"
	}
	return strings.Join(sites, " ")
}

// done says what became of a command that gives nothing back.
func (p *program) done(answer any, format string, args ...any) error {
	return p.print(answer, nil, func() error {
		_, err := fmt.Fprintln(p.out, plain(fmt.Sprintf(format, args...)))
		return err
	})
}

// printSecret gives a secret out for the only time: alone on standard output, so that a program can take it from there, with what a
// person must know beside it.
func (p *program) printSecret(answer any, secret, warning string) error {
	p.say("%s", warning)
	return p.print(answer, []string{secret}, func() error {
		_, err := fmt.Fprintln(p.out, plain(secret))
		return err
	})
}
