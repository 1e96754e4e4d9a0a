package main

import (
	"context"
	"fmt"
	"time"

	mailv1 "chom.dev/proto/gen/chom/mail/v1"
	"github.com/spf13/cobra"
)

func (p *program) mailCommand() *cobra.Command {
	return group("mail", "Mails: what the control plane sends, and what keeps it from arriving (operators)", []string{"mails"},
		p.mailQueue(), p.mailList(), p.mailShow(), p.mailRetry(), p.mailTest())
}

func (p *program) mailQueue() *cobra.Command {
	return &cobra.Command{
		Use:   "queue",
		Short: "Say how the sending of mails goes",
		Args:  exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			q, err := c.Mails.GetMailQueue(ctx, &mailv1.GetMailQueueRequest{})
			if err != nil {
				return err
			}
			server := q.GetServer()
			if server == "" {
				server = "none"
			}
			return p.print(q, nil, func() error {
				return printFields(p.out, [][2]string{
					{"warning", q.GetWarning()},
					{"server", server},
					{"from", q.GetFrom()},
					{"waiting", fmt.Sprint(q.GetWaitingCount())},
					{"oldest waits since", at(q.GetOldestWaitingTime())},
					{"given up in 30 days", fmt.Sprint(q.GetDeadCount())},
				})
			})
		}),
	}
}

// mailStates are the words for where a mail is in its life.
var mailStates = map[string]mailv1.MailState{
	"waiting": mailv1.MailState_MAIL_STATE_WAITING, "sending": mailv1.MailState_MAIL_STATE_SENDING,
	"sent": mailv1.MailState_MAIL_STATE_SENT, "dead": mailv1.MailState_MAIL_STATE_DEAD,
}

func (p *program) mailList() *cobra.Command {
	var state, recipient string
	var limit int
	cmd := limitFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the mails of the last 30 days, newest first",
		Example: `  chom mail list --state dead
  chom mail list --to anna@acme.example`,
		Args: exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			request := &mailv1.ListMailsRequest{Recipient: recipient}
			if state != "" {
				var err error
				if request.State, err = word("--state", state, mailStates); err != nil {
					return err
				}
			}
			all, err := newest(limit, func(size int32, token string) ([]*mailv1.Mail, string, error) {
				request.PageSize, request.PageToken = size, token
				page, err := c.Mails.ListMails(ctx, request)
				return page.GetMails(), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, m := range all {
				rows = append(rows, []string{m.GetId(), m.GetRecipient(), m.GetTemplate(), short(m.GetState(), "MAIL_STATE_"), fmt.Sprint(m.GetTries()), at(m.GetCreateTime()), m.GetProblem()})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"ID", "TO", "ABOUT", "STATE", "TRIES", "ASKED", "PROBLEM"}, rows)
			})
		}),
	}, &limit)
	cmd.Flags().StringVar(&state, "state", "", "only those that are waiting, sending, sent or dead")
	completeFlag(cmd, "state", fixed("waiting", "sending", "sent", "dead"))
	cmd.Flags().StringVar(&recipient, "to", "", "only those to this address")
	return cmd
}

func (p *program) mailShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show a mail: to whom, about what, and what became of it",
		Long:  "What a mail says is not shown: it may hold a link that works once.",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			got, err := c.Mails.GetMail(ctx, &mailv1.GetMailRequest{MailId: args[0]})
			if err != nil {
				return err
			}
			return p.showMail(got.GetMail())
		}),
	}
}

func (p *program) mailRetry() *cobra.Command {
	return &cobra.Command{
		Use:   "retry ID",
		Short: "Send a mail that waits or was given up, now",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			again, err := c.Mails.RetryMail(ctx, &mailv1.RetryMailRequest{MailId: args[0]})
			if err != nil {
				return err
			}
			return p.showMail(again.GetMail())
		}),
	}
}

func (p *program) mailTest() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "test",
		Short: "Send a mail to your own address, and say what became of it",
		Long: `Test waits until the mail server took the mail, or said no. A mail that is tried again later stays on its way:
chom mail show ID.`,
		Args: exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			sent, err := c.Mails.TestMail(ctx, &mailv1.TestMailRequest{})
			if err != nil {
				return err
			}
			m := sent.GetMail()
			for wait && m.GetEndTime() == nil && m.GetProblem() == "" {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(looksEach):
				}
				got, err := c.Mails.GetMail(ctx, &mailv1.GetMailRequest{MailId: m.GetId()})
				if err != nil {
					return err
				}
				m = got.GetMail()
			}
			if err := p.showMail(m); err != nil {
				return err
			}
			if wait && m.GetState() != mailv1.MailState_MAIL_STATE_SENT {
				return &problem{code: exitFailed, text: "the mail server did not take it: " + plain(m.GetProblem()), next: "see chom mail queue"}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until the mail server took it, or said no")
	return cmd
}

func (p *program) showMail(m *mailv1.Mail) error {
	return p.print(m, nil, func() error {
		return printFields(p.out, [][2]string{
			{"id", m.GetId()},
			{"to", m.GetRecipient()},
			{"about", m.GetTemplate()},
			{"organization", m.GetOrganizationId()},
			{"state", short(m.GetState(), "MAIL_STATE_")},
			{"tries", fmt.Sprint(m.GetTries())},
			{"problem", m.GetProblem()},
			{"asked", at(m.GetCreateTime())},
			{"next try", at(m.GetNextTryTime())},
			{"ended", at(m.GetEndTime())},
		})
	})
}
