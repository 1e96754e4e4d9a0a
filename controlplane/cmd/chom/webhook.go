package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	webhookv1 "chom.dev/proto/gen/chom/webhook/v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func (p *program) webhookCommand() *cobra.Command {
	cmd := group("webhook", "Webhooks: URLs of an organization's own that are called when something happens", []string{"webhooks"},
		p.webhookCreate(), p.webhookList(), p.webhookShow(), p.webhookUpdate(), p.webhookRemove(), p.webhookRotate(), p.webhookTest(),
		p.deliveryCommand())
	cmd.Long = "Webhooks are named by their id or, where only one has it, their URL.\n\n" + eventsHelp
	return cmd
}

const eventsHelp = `Types of events: site.created, site.updated, site.suspended, site.resumed, site.deleted, site.restored, task.failed,
backup.ready, backup.failed, restore.done, certificate.expiring, member.added, member.updated, member.removed, token.created,
token.revoked, organization.updated, organization.closing.`

func (p *program) webhookCreate() *cobra.Command {
	var description string
	var events []string
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "create URL",
		Short: "Have a URL called, and print the secret that signs the calls, this once",
		Long: `Create prints the secret (chomhook_...) on standard output, this once. The receiver needs it to know that a call is
genuine: Chom-Signature holds v1, the HMAC-SHA256 under it of the digits of t, a dot and the body.

` + eventsHelp,
		Example: `  chom webhook create https://hooks.acme.example/chom
  chom webhook create https://hooks.acme.example/chom --event site.created --event site.deleted --description "inventory"`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			made, err := c.Webhooks.CreateWebhook(ctx, &webhookv1.CreateWebhookRequest{
				OrganizationId: organization, Url: args[0], Description: description, Events: events,
			})
			if err != nil {
				return err
			}
			return p.printSecret(made, made.GetSecret(), "Webhook "+made.GetWebhook().GetId()+" is called from now on. Give its receiver this secret, which is shown this once:")
		}),
	})
	cmd.Flags().StringVar(&description, "description", "", "a line for people")
	cmd.Flags().StringSliceVar(&events, "event", nil, "type of event that it wants; several times for more (default all, also those to come)")
	return cmd
}

func (p *program) webhookList() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List an organization's webhooks",
		Args:    exactly(0),
		RunE: p.action(func(ctx context.Context, c *client, _ []string) error {
			organization, err := p.organizationID(ctx, c)
			if err != nil {
				return err
			}
			all, err := c.Webhooks.ListWebhooks(ctx, &webhookv1.ListWebhooksRequest{OrganizationId: organization})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, w := range all.GetWebhooks() {
				rows = append(rows, []string{w.GetUrl(), webhookState(w), eventsText(w), w.GetDescription(), w.GetId()})
			}
			return p.print(list(all.GetWebhooks()), column(rows, 4), func() error {
				return printTable(p.out, []string{"URL", "STATE", "EVENTS", "DESCRIPTION", "ID"}, rows)
			})
		}),
	})
}

func webhookState(w *webhookv1.Webhook) string {
	switch {
	case !w.GetEnabled():
		return "disabled"
	case w.GetFailingTime() != nil:
		return "failing"
	}
	return "enabled"
}

func eventsText(w *webhookv1.Webhook) string {
	if len(w.GetEvents()) == 0 {
		return "all"
	}
	return strings.Join(w.GetEvents(), " ")
}

func (p *program) webhookShow() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "show WEBHOOK",
		Short: "Show a webhook and how its calls go",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.webhookID(ctx, c, args[0])
			if err != nil {
				return err
			}
			got, err := c.Webhooks.GetWebhook(ctx, &webhookv1.GetWebhookRequest{OrganizationId: organization, WebhookId: id})
			if err != nil {
				return err
			}
			return p.showWebhook(got.GetWebhook())
		}),
	})
}

func (p *program) webhookUpdate() *cobra.Command {
	var to, description string
	var events []string
	var enabled bool
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "update WEBHOOK",
		Short: "Change a webhook's URL, description or events, or stop and resume its calls",
		Long: `Update changes what is named and leaves the rest. A webhook that is enabled, or that gets another URL, begins anew:
its failures are forgotten, and what waits for it is sent at once.

` + eventsHelp,
		Example: `  chom webhook update https://hooks.acme.example/chom --event site.created --event task.failed
  chom webhook update https://hooks.acme.example/chom --enabled=false`,
		Args: exactly(1),
	})
	cmd.RunE = p.action(func(ctx context.Context, c *client, args []string) error {
		update := &webhookv1.UpdateWebhookRequest{Url: to, Description: description, Enabled: enabled, UpdateMask: &fieldmaskpb.FieldMask{}}
		if !(len(events) == 1 && events[0] == "all") {
			update.Events = events
		}
		for _, change := range []struct{ flag, field string }{{"to", "url"}, {"description", "description"}, {"event", "events"}, {"enabled", "enabled"}} {
			if cmd.Flags().Changed(change.flag) {
				update.UpdateMask.Paths = append(update.UpdateMask.Paths, change.field)
			}
		}
		if len(update.UpdateMask.Paths) == 0 {
			return usagef("nothing to change")
		}
		var err error
		if update.OrganizationId, update.WebhookId, err = p.webhookID(ctx, c, args[0]); err != nil {
			return err
		}
		changed, err := c.Webhooks.UpdateWebhook(ctx, update)
		if err != nil {
			return err
		}
		return p.showWebhook(changed.GetWebhook())
	})
	cmd.Flags().StringVar(&to, "to", "", "the new URL")
	cmd.Flags().StringVar(&description, "description", "", "the new line for people")
	cmd.Flags().StringSliceVar(&events, "event", nil, "type of event that it wants, instead of those so far; several times for more, or all")
	cmd.Flags().BoolVar(&enabled, "enabled", true, "whether it is called")
	return cmd
}

func (p *program) webhookRemove() *cobra.Command {
	var yes bool
	return yesFlag(p.organizationFlag(&cobra.Command{
		Use:   "rm WEBHOOK",
		Short: "Remove a webhook, its secrets and what is known of its deliveries",
		Long:  "What waits for the webhook is not sent. To only stop its calls for a while: chom webhook update WEBHOOK --enabled=false",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.webhookID(ctx, c, args[0])
			if err != nil {
				return err
			}
			if err := p.confirm(yes, "This removes the webhook "+plain(args[0])+" and what waits for it", args[0]); err != nil {
				return err
			}
			removed, err := c.Webhooks.DeleteWebhook(ctx, &webhookv1.DeleteWebhookRequest{OrganizationId: organization, WebhookId: id})
			if err != nil {
				return err
			}
			return p.done(removed, "The webhook %s is removed.", args[0])
		}),
	}), &yes)
}

func (p *program) webhookRotate() *cobra.Command {
	var leaked bool
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "rotate-secret WEBHOOK",
		Short: "Give a webhook a new secret and print it, this once",
		Long: `For a day calls are signed with both secrets, so that receivers can be changed one after the other. With --leaked
the former one signs nothing any more at once.`,
		Args: exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.webhookID(ctx, c, args[0])
			if err != nil {
				return err
			}
			rotated, err := c.Webhooks.RotateWebhookSecret(ctx, &webhookv1.RotateWebhookSecretRequest{OrganizationId: organization, WebhookId: id, Leaked: leaked})
			if err != nil {
				return err
			}
			warning := "Give the receiver this secret, which is shown this once:"
			if until := rotated.GetWebhook().GetFormerSecretExpireTime(); until != nil {
				warning = "The former secret signs too until " + at(until) + ". " + warning
			}
			return p.printSecret(rotated, rotated.GetSecret(), warning)
		}),
	})
	cmd.Flags().BoolVar(&leaked, "leaked", false, "the present secret has leaked: let it sign nothing any more")
	return cmd
}

func (p *program) webhookTest() *cobra.Command {
	var wait bool
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "test WEBHOOK",
		Short: "Send a webhook an event of the type webhook.test, and say what became of it",
		Long:  "The event goes to a disabled webhook too. It is repeated for a minute, and does not count when it fails.",
		Args:  exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.webhookID(ctx, c, args[0])
			if err != nil {
				return err
			}
			sent, err := c.Webhooks.TestWebhook(ctx, &webhookv1.TestWebhookRequest{OrganizationId: organization, WebhookId: id})
			if err != nil {
				return err
			}
			return p.finishDelivery(ctx, c, organization, sent.GetDelivery(), wait)
		}),
	})
	cmd.Flags().BoolVar(&wait, "wait", true, "follow the delivery until the receiver took it, or it was given up")
	return cmd
}

func (p *program) deliveryCommand() *cobra.Command {
	return group("delivery", "Deliveries: events on their way to a webhook", []string{"deliveries"},
		p.deliveryList(), p.deliveryShow(), p.deliveryReplay())
}

// deliveryStates are the words for where a delivery is in its life.
var deliveryStates = map[string]webhookv1.DeliveryState{
	"waiting": webhookv1.DeliveryState_DELIVERY_STATE_WAITING, "sending": webhookv1.DeliveryState_DELIVERY_STATE_SENDING,
	"sent": webhookv1.DeliveryState_DELIVERY_STATE_SENT, "dead": webhookv1.DeliveryState_DELIVERY_STATE_DEAD,
}

func (p *program) deliveryList() *cobra.Command {
	var state string
	var limit int
	cmd := limitFlag(p.organizationFlag(&cobra.Command{
		Use:     "list WEBHOOK",
		Aliases: []string{"ls"},
		Short:   "List what a webhook was told in the last 30 days, or still is to be told, newest first",
		Example: `  chom webhook delivery list https://hooks.acme.example/chom --state dead`,
		Args:    exactly(1),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			request := &webhookv1.ListDeliveriesRequest{}
			var err error
			if state != "" {
				if request.State, err = word("--state", state, deliveryStates); err != nil {
					return err
				}
			}
			if request.OrganizationId, request.WebhookId, err = p.webhookID(ctx, c, args[0]); err != nil {
				return err
			}
			all, err := newest(limit, func(size int32, token string) ([]*webhookv1.Delivery, string, error) {
				request.PageSize, request.PageToken = size, token
				page, err := c.Webhooks.ListDeliveries(ctx, request)
				return page.GetDeliveries(), page.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, d := range all {
				rows = append(rows, []string{d.GetId(), d.GetType(), short(d.GetState(), "DELIVERY_STATE_"), fmt.Sprint(d.GetTries()), at(d.GetCreateTime()), d.GetProblem()})
			}
			return p.print(list(all), column(rows, 0), func() error {
				return printTable(p.out, []string{"ID", "TYPE", "STATE", "CALLS", "CREATED", "PROBLEM"}, rows)
			})
		}),
	}), &limit)
	cmd.Flags().StringVar(&state, "state", "", "only those that are waiting, sending, sent or dead")
	completeFlag(cmd, "state", fixed("waiting", "sending", "sent", "dead"))
	return cmd
}

func (p *program) deliveryShow() *cobra.Command {
	return p.organizationFlag(&cobra.Command{
		Use:   "show WEBHOOK ID",
		Short: "Show a delivery: what is sent, and all of its calls",
		Args:  exactly(2),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.webhookID(ctx, c, args[0])
			if err != nil {
				return err
			}
			got, err := c.Webhooks.GetDelivery(ctx, &webhookv1.GetDeliveryRequest{OrganizationId: organization, WebhookId: id, DeliveryId: args[1]})
			if err != nil {
				return err
			}
			return p.showDelivery(got.GetDelivery())
		}),
	})
}

func (p *program) deliveryReplay() *cobra.Command {
	var wait bool
	cmd := p.organizationFlag(&cobra.Command{
		Use:   "replay WEBHOOK ID",
		Short: "Send a delivery again: the same event under the same id",
		Args:  exactly(2),
		RunE: p.action(func(ctx context.Context, c *client, args []string) error {
			organization, id, err := p.webhookID(ctx, c, args[0])
			if err != nil {
				return err
			}
			again, err := c.Webhooks.ReplayDelivery(ctx, &webhookv1.ReplayDeliveryRequest{OrganizationId: organization, WebhookId: id, DeliveryId: args[1]})
			if err != nil {
				return err
			}
			return p.finishDelivery(ctx, c, organization, again.GetDelivery(), wait)
		}),
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "follow the delivery until the receiver took it, or it was given up")
	return cmd
}

// looksEach is how often a waiting command looks: in half of the calls that a person may make in a minute.
const looksEach = 2 * time.Second

// finishDelivery follows a delivery if that is wanted, shows it, and fails if it did.
func (p *program) finishDelivery(ctx context.Context, c *client, organization string, d *webhookv1.Delivery, wait bool) error {
	for wait && d.GetEndTime() == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(looksEach):
		}
		got, err := c.Webhooks.GetDelivery(ctx, &webhookv1.GetDeliveryRequest{OrganizationId: organization, WebhookId: d.GetWebhookId(), DeliveryId: d.GetId()})
		if err != nil {
			return err
		}
		d = got.GetDelivery()
	}
	if err := p.showDelivery(d); err != nil {
		return err
	}
	if wait && d.GetState() != webhookv1.DeliveryState_DELIVERY_STATE_SENT {
		return &problem{code: exitFailed, text: "the receiver did not take it: " + plain(d.GetProblem())}
	}
	return nil
}

// webhookID is the webhook with an id, or with a URL that no other has.
func (p *program) webhookID(ctx context.Context, c *client, urlOrID string) (organization, webhook string, err error) {
	if organization, err = p.organizationID(ctx, c); err != nil || isID(urlOrID) {
		return organization, urlOrID, err
	}
	all, err := c.Webhooks.ListWebhooks(ctx, &webhookv1.ListWebhooksRequest{OrganizationId: organization})
	if err != nil {
		return "", "", err
	}
	w, err := only(all.GetWebhooks(), "webhook", urlOrID, "chom webhook list", (*webhookv1.Webhook).GetId, (*webhookv1.Webhook).GetUrl)
	return organization, w.GetId(), err
}

func (p *program) showWebhook(w *webhookv1.Webhook) error {
	return p.print(w, nil, func() error {
		return printFields(p.out, [][2]string{
			{"url", w.GetUrl()},
			{"id", w.GetId()},
			{"description", w.GetDescription()},
			{"events", eventsText(w)},
			{"state", webhookState(w)},
			{"problem", w.GetProblem()},
			{"fails since", at(w.GetFailingTime())},
			{"former secret signs until", at(w.GetFormerSecretExpireTime())},
			{"created", at(w.GetCreateTime())},
			{"changed", at(w.GetUpdateTime())},
		})
	})
}

func (p *program) showDelivery(d *webhookv1.Delivery) error {
	return p.print(d, nil, func() error {
		if err := printFields(p.out, [][2]string{
			{"id", d.GetId()},
			{"event", d.GetEventId()},
			{"type", d.GetType()},
			{"state", short(d.GetState(), "DELIVERY_STATE_")},
			{"problem", d.GetProblem()},
			{"created", at(d.GetCreateTime())},
			{"next call", at(d.GetNextTryTime())},
			{"ended", at(d.GetEndTime())},
			{"payload", d.GetPayload()},
		}); err != nil || len(d.GetAttempts()) == 0 {
			return err
		}
		return printAttempts(p.out, d.GetAttempts())
	})
}

func printAttempts(w io.Writer, all []*webhookv1.Attempt) error {
	var rows [][]string
	for _, a := range all {
		took, status := "", ""
		if a.GetDuration() != nil {
			took = a.GetDuration().AsDuration().Round(time.Millisecond).String()
		}
		if a.GetStatus() != 0 {
			status = fmt.Sprint(a.GetStatus())
		}
		rows = append(rows, []string{at(a.GetStartTime()), took, status, a.GetProblem()})
	}
	return printTable(w, []string{"CALL", "TOOK", "STATUS", "PROBLEM"}, rows)
}
