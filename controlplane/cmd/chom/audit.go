package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	auditv1 "chom.dev/proto/gen/chom/audit/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (p *program) auditCommand() *cobra.Command {
	return group("audit", "The audit log: who did what, and what was refused", nil,
		p.auditList(), p.auditMine(), p.auditExport())
}

// auditFilter is what flags say of the events that are wanted.
type auditFilter struct {
	platform                bool
	actor, action, object   string
	outcome, since, until   string
	organizationID, actorID string
	wantedOutcome           auditv1.Outcome
	startTime, endTime      *timestamppb.Timestamp
}

func (p *program) auditFlags(cmd *cobra.Command, f *auditFilter) *cobra.Command {
	flags := p.organizationFlag(cmd).Flags()
	flags.BoolVar(&f.platform, "platform", false, "what happened to the platform itself instead of an organization, for operators")
	flags.StringVar(&f.actor, "actor", "", "only what this member did, named by e-mail address; or an account, organization or server by its id")
	flags.StringVar(&f.action, "action", "", "only actions that begin so: site. or site.create")
	flags.StringVar(&f.object, "object", "", "only what was done to the thing with this id")
	flags.StringVar(&f.outcome, "outcome", "", "only what was done, or only what was refused")
	completeFlag(cmd, "outcome", fixed("done", "refused"))
	flags.StringVar(&f.since, "since", "", "not before this: a date, a time, or how long ago as 7d or 12h")
	flags.StringVar(&f.until, "until", "", "before this: a date, a time, or how long ago")
	return cmd
}

var outcomes = map[string]auditv1.Outcome{"done": auditv1.Outcome_OUTCOME_DONE, "refused": auditv1.Outcome_OUTCOME_REFUSED}

// resolve turns the words of the flags into what the API takes.
func (f *auditFilter) resolve(ctx context.Context, p *program, c *client) error {
	var err error
	if f.outcome != "" {
		if f.wantedOutcome, err = word("--outcome", f.outcome, outcomes); err != nil {
			return err
		}
	}
	now := time.Now()
	if f.startTime, err = moment("since", f.since, now); err != nil {
		return err
	}
	if f.endTime, err = moment("until", f.until, now); err != nil {
		return err
	}
	if f.platform && p.organization != "" {
		return usagef("--platform and --organization exclude each other")
	}
	f.organizationID = platform
	if !f.platform {
		if f.organizationID, err = p.organizationID(ctx, c); err != nil {
			return err
		}
	}
	switch f.actorID = f.actor; {
	case f.actor == "" || isID(f.actor):
		return nil
	case f.platform:
		return usagef("--actor takes an id with --platform")
	}
	member, err := c.memberNamed(ctx, f.organizationID, f.actor)
	f.actorID = member.GetAccountId()
	return err
}

func (p *program) auditList() *cobra.Command {
	var f auditFilter
	var limit int
	return limitFlag(p.auditFlags(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List what happened to an organization, newest first",
		Example: `  chom audit list --action site. --since 7d
  chom audit list --actor ben@acme.example --outcome refused
  chom audit list --platform --limit 500`,
		Args: exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			if err := f.resolve(ctx, p, c); err != nil {
				return err
			}
			all, err := newest(limit, func(size int32, token string) ([]*auditv1.AuditEvent, string, error) {
				page, err := c.Audit.ListAuditEvents(ctx, &auditv1.ListAuditEventsRequest{
					OrganizationId: f.organizationID, ActorId: f.actorID, Action: f.action, Object: f.object, Outcome: f.wantedOutcome,
					StartTime: f.startTime, EndTime: f.endTime, PageSize: size, PageToken: token,
				})
				return page.GetEvents(), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return p.showEvents(all)
		}),
	}, &f), &limit)
}

func (p *program) auditMine() *cobra.Command {
	var limit int
	return limitFlag(&cobra.Command{
		Use:   "mine",
		Short: "List what you did on the platform and what was done to your account, newest first",
		Long:  "Mine shows who signed in to your account, who failed to, and who acted in your place.",
		Args:  exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			all, err := newest(limit, func(size int32, token string) ([]*auditv1.AuditEvent, string, error) {
				page, err := c.Audit.ListMyAuditEvents(ctx, &auditv1.ListMyAuditEventsRequest{PageSize: size, PageToken: token})
				return page.GetEvents(), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			return p.showEvents(all)
		}),
	}, &limit)
}

func (p *program) showEvents(all []*auditv1.AuditEvent) error {
	var rows [][]string
	for _, e := range all {
		rows = append(rows, []string{
			strconv.FormatInt(e.GetSequence(), 10), at(e.GetTime()), actorText(e.GetActor()), e.GetActor().GetAddress(), e.GetAction(), short(e.GetOutcome(), "OUTCOME_"), e.GetObject(), e.GetDetail(),
		})
	}
	return p.print(list(all), column(rows, 0), func() error {
		return printTable(p.out, []string{"NO", "TIME", "WHO", "FROM", "ACTION", "OUTCOME", "OBJECT", "DETAIL"}, rows)
	})
}

func actorText(a *auditv1.Actor) string {
	text := short(a.GetKind(), "ACTOR_KIND_")
	switch {
	case a.GetOperatorEmail() != "":
		text = "operator " + a.GetOperatorEmail()
	case a.GetId() != "":
		text += " " + a.GetId()
	}
	if a.GetImpersonatorId() != "" {
		text += " by operator " + cmp.Or(a.GetImpersonatorEmail(), a.GetImpersonatorId())
	}
	return text
}

// exportFormats are the words for how a file of events is written.
var exportFormats = map[string]auditv1.ExportFormat{
	"jsonl": auditv1.ExportFormat_EXPORT_FORMAT_JSON_LINES, "csv": auditv1.ExportFormat_EXPORT_FORMAT_CSV,
}

func (p *program) auditExport() *cobra.Command {
	var f auditFilter
	var format, to string
	cmd := p.auditFlags(&cobra.Command{
		Use:   "export",
		Short: "Write what happened to an organization as a file, oldest first",
		Long: `Export writes what was recorded before it began to standard output, or with --to into a file, which is there as a
whole or not at all. The export is itself recorded.`,
		Example: `  chom audit export --since 2026-01-01 --until 2026-02-01 --format csv --to january.csv
  chom audit export --organization acme | jq -r .action | sort | uniq -c`,
		Args: exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			as, err := word("--format", format, exportFormats)
			if err != nil {
				return err
			}
			if err := f.resolve(ctx, p, c); err != nil {
				return err
			}
			request := &auditv1.ExportAuditEventsRequest{
				OrganizationId: f.organizationID, ActorId: f.actorID, Action: f.action, Object: f.object, Outcome: f.wantedOutcome,
				StartTime: f.startTime, EndTime: f.endTime, Format: as,
			}
			if to == "" {
				return c.export(ctx, request, p.out)
			}
			return wholeFile(to, func(w io.Writer) error { return c.export(ctx, request, w) })
		}),
	}, &f)
	cmd.Flags().StringVar(&format, "format", "jsonl", "jsonl, a JSON object on each line, or csv")
	completeFlag(cmd, "format", fixed("jsonl", "csv"))
	cmd.Flags().StringVar(&to, "to", "", "file to write (default standard output)")
	return cmd
}

// export writes the parts of a file as they come.
func (c *client) export(ctx context.Context, request *auditv1.ExportAuditEventsRequest, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Audit.ExportAuditEvents(ctx, request)
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // it was read to its end, or is given up
	for stream.Receive() {
		if _, err := w.Write(stream.Msg().GetBody().GetData()); err != nil {
			return fmt.Errorf("write the export: %w", err)
		}
	}
	return stream.Err()
}

// wholeFile makes a file for its owner only, which appears once all of it is written.
func wholeFile(path string, write func(io.Writer) error) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".chom-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write the file: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone already when all went well
	if err := errors.Join(write(file), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("write the file: %w", err)
	}
	return nil
}
