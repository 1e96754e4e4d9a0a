package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func (p *program) policyCommand() *cobra.Command {
	cmd := group("policy", "Backup policies: when sites are backed up, and what is kept of that", []string{"policies"},
		p.policyCreate(), p.policyList(), p.policyShow(), p.policyUpdate(), p.policyDelete())
	cmd.Long = `A site goes by the policy that was chosen for it (chom site update SITE --backup-policy POLICY); otherwise by the first, the lowest
rank first, of whose tags it has one; otherwise by the platform's own, which is listed last.

Of a site's backups the newest one is kept of each of so many hours, days, weeks and months that have one. What any of them keeps is
kept, and so are the newest one, the newest one that was proven, and all that are younger than a day.

A POLICY is named by its name or id. A change reaches each site that goes by the policy by itself, one after the other.`
	return cmd
}

// policyFlags are what flags say of a policy.
type policyFlags struct {
	tags                           []string
	rank                           int32
	every                          string
	paths                          []string
	hourly, daily, weekly, monthly uint32
}

func (f *policyFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.tags, "tag", nil, "tag of the sites that it is for; several times for more")
	flags.Int32Var(&f.rank, "rank", 0, "which policy comes first, the lowest first")
	flags.StringVar(&f.every, "every", "", "time between two backups of a site, 15m to 744h, or none (default 24h)")
	flags.Uint32Var(&f.hourly, "keep-hourly", 0, "of how many hours a backup is kept (default 0)")
	flags.Uint32Var(&f.daily, "keep-daily", 0, "of how many days (default 7)")
	flags.Uint32Var(&f.weekly, "keep-weekly", 0, "of how many weeks (default 5)")
	flags.Uint32Var(&f.monthly, "keep-monthly", 0, "of how many months (default 12)")
	flags.StringArrayVar(&f.paths, "drill-path", nil, "path that drills ask the restored site for, beside its home page; several times for up to 5")
}

// over lays what flags say over a policy, and names the fields that they change.
func (f *policyFlags) over(cmd *cobra.Command, from *backupv1.Policy) (*backupv1.Policy, []string, error) {
	to, paths := proto.CloneOf(from), []string(nil)
	changed := func(field string, flags ...string) bool {
		given := slices.ContainsFunc(flags, cmd.Flags().Changed)
		if given {
			paths = append(paths, field)
		}
		return given
	}
	if changed("tags", "tag") {
		to.Tags = slices.DeleteFunc(f.tags, func(tag string) bool { return tag == "" })
	}
	if changed("rank", "rank") {
		to.Rank = f.rank
	}
	if changed("interval", "every") {
		to.Interval = nil
		if f.every != "none" {
			every, err := time.ParseDuration(f.every)
			if err != nil || every <= 0 {
				return nil, nil, usagef("--every: must be a time such as 24h or 30m, or none")
			}
			to.Interval = durationpb.New(every)
		}
	}
	if changed("retention", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly") {
		for flag, keep := range map[string]struct{ to, from *uint32 }{
			"keep-hourly": {&to.Retention.Hourly, &f.hourly}, "keep-daily": {&to.Retention.Daily, &f.daily},
			"keep-weekly": {&to.Retention.Weekly, &f.weekly}, "keep-monthly": {&to.Retention.Monthly, &f.monthly},
		} {
			if cmd.Flags().Changed(flag) {
				*keep.to = *keep.from
			}
		}
	}
	if changed("drill_paths", "drill-path") {
		to.DrillPaths = slices.DeleteFunc(f.paths, func(path string) bool { return path == "" })
	}
	return to, paths, nil
}

func (p *program) policyCreate() *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a backup policy",
		Long:  "What is not named is as the platform's own policy has it. A policy without tags is for the sites that choose it.",
		Example: `  chom backup policy create shops --tag shop --every 1h --keep-hourly 48
  chom backup policy create archive --every none
  chom backup policy create watched --drill-path /shop/ --drill-path '/?p=7'`,
		Args: exactly(1),
	}
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		organization, err := p.organizationID(ctx, c)
		if err != nil {
			return err
		}
		all, err := c.policies(ctx, organization)
		if err != nil {
			return err
		}
		wanted, _, err := f.over(cmd, all[len(all)-1]) // the platform's own
		if err != nil {
			return err
		}
		made, err := c.Policies.CreatePolicy(ctx, &backupv1.CreatePolicyRequest{
			OrganizationId: organization, Name: args[0], Tags: wanted.GetTags(), Rank: wanted.GetRank(), Interval: wanted.GetInterval(), Retention: wanted.GetRetention(),
			DrillPaths: wanted.GetDrillPaths(),
		})
		if err != nil {
			return err
		}
		return p.showPolicy(made.GetPolicy())
	})
	f.flags(cmd)
	return p.organizationFlag(cmd)
}

func (p *program) policyList() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List an organization's backup policies, in their order, and the platform's own last",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := c.policies(ctx, organization)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, one := range all {
				rows = append(rows, []string{
					one.GetName(), strings.Join(one.GetTags(), " "), strconv.Itoa(int(one.GetRank())), every(one), kept(one.GetRetention()), one.GetId(),
				})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"NAME", "TAGS", "RANK", "EVERY", "KEPT", "ID"}, rows)
			})
		}),
	})
}

func (p *program) policyShow() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:               "show POLICY",
		Short:             "Show a backup policy",
		Args:              exactly(1),
		ValidArgsFunction: first(p.policyNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			found, err := c.policy(ctx, organization, args[0])
			if err != nil {
				return err
			}
			return p.showPolicy(found)
		}),
	})
}

func (p *program) policyUpdate() *cobra.Command {
	var f policyFlags
	var name string
	cmd := &cobra.Command{
		Use:   "update POLICY",
		Short: "Change a backup policy",
		Long: `Update changes what is named and leaves the rest. Tags are replaced as a whole; --tag "" takes all of them away. So
are drill paths, by --drill-path "".`,
		Example:           `  chom backup policy update shops --every 30m --keep-hourly 72`,
		Args:              exactly(1),
		ValidArgsFunction: first(p.policyNames),
	}
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		organization, err := p.organizationID(ctx, c)
		if err != nil {
			return err
		}
		now, err := c.ownPolicy(ctx, organization, args[0])
		if err != nil {
			return err
		}
		wanted, paths, err := f.over(cmd, now)
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("name") {
			paths = append(paths, "name")
		}
		if len(paths) == 0 {
			return usagef("nothing to change")
		}
		changed, err := c.Policies.UpdatePolicy(ctx, &backupv1.UpdatePolicyRequest{
			OrganizationId: organization, PolicyId: now.GetId(), UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
			Name: name, Tags: wanted.GetTags(), Rank: wanted.GetRank(), Interval: wanted.GetInterval(), Retention: wanted.GetRetention(),
			DrillPaths: wanted.GetDrillPaths(),
		})
		if err != nil {
			return err
		}
		return p.showPolicy(changed.GetPolicy())
	})
	f.flags(cmd)
	cmd.Flags().StringVar(&name, "name", "", "the new name")
	return p.organizationFlag(cmd)
}

func (p *program) policyDelete() *cobra.Command {
	var yes bool
	return yesFlag(p.organizationFlag(&cobra.Command{
		Use:               "delete POLICY",
		Aliases:           []string{"rm"},
		Short:             "Remove a backup policy that no site has chosen",
		Long:              "Sites that came to it by their tags go by the next one. What that does not keep of their backups is removed in time.",
		Args:              exactly(1),
		ValidArgsFunction: first(p.policyNames),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			now, err := c.ownPolicy(ctx, organization, args[0])
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This removes the backup policy "+plain(now.GetName())+"; sites that go by it go by the next one", now.GetName()); err != nil {
				return err
			}
			gone, err := c.Policies.DeletePolicy(ctx, &backupv1.DeletePolicyRequest{OrganizationId: organization, PolicyId: now.GetId()})
			if err != nil {
				return err
			}
			return p.done(gone, "The backup policy %s is removed.", now.GetName())
		}),
	}), &yes)
}

// policies are all of an organization's, and the platform's own last.
func (c *client) policies(ctx context.Context, organization string) ([]*backupv1.Policy, error) {
	all, err := c.Policies.ListPolicies(ctx, &backupv1.ListPoliciesRequest{OrganizationId: organization})
	return all.GetPolicies(), err
}

// policy finds a policy by its name or id.
func (c *client) policy(ctx context.Context, organization, nameOrID string) (*backupv1.Policy, error) {
	all, err := c.policies(ctx, organization)
	if err != nil {
		return nil, err
	}
	return only(all, "backup policy", nameOrID, "chom backup policy list", (*backupv1.Policy).GetId, (*backupv1.Policy).GetName)
}

// ownPolicy is one that the organization has made.
func (c *client) ownPolicy(ctx context.Context, organization, nameOrID string) (*backupv1.Policy, error) {
	found, err := c.policy(ctx, organization, nameOrID)
	if err == nil && found.GetId() == "" {
		return nil, usagef("the backup policy %q is the platform's own", plain(found.GetName()))
	}
	return found, err
}

func (p *program) policyNames(cmd *cobra.Command) []string {
	return p.remoteNames(cmd, func(ctx context.Context, c *client) ([]string, error) {
		organization, err := p.organizationID(ctx, c)
		if err != nil {
			return nil, err
		}
		all, err := c.policies(ctx, organization)
		var names []string
		for _, one := range all {
			if one.GetId() != "" {
				names = append(names, cobra.CompletionWithDesc(one.GetName(), every(one)+" "+plain(strings.Join(one.GetTags(), " "))))
			}
		}
		return names, err
	})
}

// every says how often a policy has sites backed up.
func every(one *backupv1.Policy) string {
	if one.GetInterval() == nil {
		return "none"
	}
	text := one.GetInterval().AsDuration().String() // 24h0m0s
	for _, nothing := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, nothing) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// kept says what is kept.
func kept(r *backupv1.Retention) string {
	var all []string
	for _, of := range []struct {
		n    uint32
		what string
	}{{r.GetHourly(), "hourly"}, {r.GetDaily(), "daily"}, {r.GetWeekly(), "weekly"}, {r.GetMonthly(), "monthly"}} {
		if of.n > 0 {
			all = append(all, fmt.Sprintf("%d %s", of.n, of.what))
		}
	}
	return cmp.Or(strings.Join(all, ", "), "the newest")
}

func (p *program) showPolicy(one *backupv1.Policy) error {
	return p.print(one, []string{one.GetName()}, func() error {
		return printFields(p.out, [][2]string{
			{"name", one.GetName()},
			{"id", one.GetId()},
			{"tags", strings.Join(one.GetTags(), " ")},
			{"rank", strconv.Itoa(int(one.GetRank()))},
			{"every", every(one)},
			{"kept", kept(one.GetRetention())},
			{"drills ask for", strings.Join(append([]string{"/"}, one.GetDrillPaths()...), " ")},
			{"created", at(one.GetCreateTime())},
			{"changed", at(one.GetUpdateTime())},
		})
	})
}
