package api

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	mailv1 "chom.dev/proto/gen/chom/mail/v1"
	"chom.dev/proto/gen/chom/mail/v1/mailv1connect"
	webhookv1 "chom.dev/proto/gen/chom/webhook/v1"
	"chom.dev/proto/gen/chom/webhook/v1/webhookv1connect"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/controlplane/webhook"
	"chom.dev/proto/contract"
)

// newNotices are the mails and webhooks of a world in which nothing is sent.
func newNotices(t testing.TB, d *db.DB, log *slog.Logger, organizations *organization.Organizations) (*notify.Mails, *webhook.Webhooks) {
	t.Helper()
	const url = "https://chom.example.com"
	mails, err := notify.New(d, secrettest.New(), log, prometheus.NewRegistry(), notify.Config{PublicURL: url})
	must(t, err)
	return mails, webhook.New(d, log, webhook.Config{
		Keys: secrettest.New(), Mails: mails, Organizations: organizations, Dialer: outbound.New(), PublicURL: url,
	})
}

// newWebhook makes a webhook and an event for it.
func newWebhook(t testing.TB, d *db.DB, webhooks *webhook.Webhooks, organization string) (id, delivery string) {
	t.Helper()
	tenant, err := contract.ParseOrganizationID(organization)
	must(t, err)
	made, _, err := webhooks.Create(t.Context(), webhook.Wanted{Organization: tenant, URL: "https://hooks.example.com/"})
	must(t, err)
	must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
		return webhook.Publish(t.Context(), tx, webhook.Event{Organization: tenant, Type: webhook.SiteCreated, Object: webhook.Object{Kind: "site", Name: "site"}})
	}))
	all, _, err := webhooks.ListDeliveries(t.Context(), tenant, made.ID, 1, "", webhook.Filter{})
	must(t, err)
	return made.ID, all[0].ID
}

// canaryLink is what no operator may see.
const canaryLink = "https://chom.example.com/reset#canary"

func newMail(t testing.TB, d *db.DB, mails *notify.Mails) string {
	t.Helper()
	to, err := contract.ParseEmail("somebody@example.com")
	must(t, err)
	must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
		return mails.Enqueue(t.Context(), tx, notify.Mail{To: to, Template: notify.TemplateResetPassword, Values: map[string]string{"link": canaryLink}})
	}))
	all, _, err := mails.List(t.Context(), 1, "", notify.Filter{})
	must(t, err)
	return all[0].ID
}

func TestWebhooks(t *testing.T) {
	w := sqliteWorld(t)
	client := func(token string) webhookv1connect.WebhookServiceClient {
		return webhookv1connect.NewWebhookServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(bearer(token)))
	}
	owner := client(w.ours.owner)
	ctx := t.Context()
	made, err := owner.CreateWebhook(ctx, &webhookv1.CreateWebhookRequest{
		OrganizationId: w.ours.organization, Url: "https://example.com/a/b", Description: `<img src=x onerror="alert(1)">`, Events: []string{"task.failed", "site.created"},
	})
	must(t, err)
	hook := made.GetWebhook()
	if !hook.GetEnabled() || hook.GetUrl() != "https://example.com/a/b" || strings.Join(hook.GetEvents(), " ") != "site.created task.failed" || hook.GetDescription() != `<img src=x onerror="alert(1)">` {
		t.Errorf("made is %v", hook)
	}
	rotated, err := owner.RotateWebhookSecret(ctx, &webhookv1.RotateWebhookSecretRequest{OrganizationId: w.ours.organization, WebhookId: hook.GetId()})
	must(t, err)
	if rotated.GetSecret() == made.GetSecret() || rotated.GetWebhook().GetFormerSecretExpireTime() == nil {
		t.Errorf("rotated is %v", rotated.GetWebhook())
	}
	tested, err := owner.TestWebhook(ctx, &webhookv1.TestWebhookRequest{OrganizationId: w.ours.organization, WebhookId: hook.GetId()})
	must(t, err)
	shown, err := owner.GetDelivery(ctx, &webhookv1.GetDeliveryRequest{OrganizationId: w.ours.organization, WebhookId: hook.GetId(), DeliveryId: tested.GetDelivery().GetId()})
	must(t, err)
	if d := shown.GetDelivery(); d.GetState() != webhookv1.DeliveryState_DELIVERY_STATE_WAITING || d.GetType() != "webhook.test" || !strings.Contains(d.GetPayload(), d.GetEventId()) {
		t.Errorf("the test is %v", d)
	}
	listed, err := owner.ListWebhooks(ctx, &webhookv1.ListWebhooksRequest{OrganizationId: w.ours.organization})
	must(t, err)
	got, err := owner.GetWebhook(ctx, &webhookv1.GetWebhookRequest{OrganizationId: w.ours.organization, WebhookId: hook.GetId()})
	must(t, err)
	updated, err := owner.UpdateWebhook(ctx, &webhookv1.UpdateWebhookRequest{
		OrganizationId: w.ours.organization, WebhookId: hook.GetId(), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"enabled", "events"}}, Url: "https://ignored.example/",
	})
	must(t, err)
	if u := updated.GetWebhook(); u.GetEnabled() || len(u.GetEvents()) != 0 || u.GetUrl() != "https://example.com/a/b" {
		t.Errorf("updated is %v", u)
	}
	t.Run("its secrets are shown once", func(t *testing.T) {
		for _, answer := range []proto.Message{listed, got, updated, shown, rotated.GetWebhook()} {
			text, err := protojson.Marshal(answer)
			must(t, err)
			for _, secret := range []string{made.GetSecret(), rotated.GetSecret()} {
				if strings.Contains(string(text), secret) {
					t.Errorf("shown again in %T", answer)
				}
			}
		}
		if strings.Contains(w.log.String(), "chomhook_") || strings.Contains(w.log.String(), "/a/b") {
			t.Error("the log holds a secret or a URL")
		}
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE detail LIKE '%chomhook_%' OR detail LIKE '%/a/b%'`); n != 0 {
			t.Error("the audit trail holds a secret or a URL")
		}
	})
	t.Run("members below admins do not see them", func(t *testing.T) {
		if _, err := client(w.ours.viewer).ListWebhooks(ctx, &webhookv1.ListWebhooksRequest{OrganizationId: w.ours.organization}); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("got %v", err)
		}
	})
	t.Run("addresses inside are refused", func(t *testing.T) { // case A17
		for _, url := range []string{"https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/", "https://169.254.169.254/latest", "https://2130706433/", "https://0177.0.0.1/", "http://example.com/", "https://localhost/"} {
			_, err := owner.CreateWebhook(ctx, &webhookv1.CreateWebhookRequest{OrganizationId: w.ours.organization, Url: url})
			if connect.CodeOf(err) != connect.CodeInvalidArgument || namedField(err) != "url" {
				t.Errorf("%s: %v", url, err)
			}
		}
	})
	t.Run("speaks REST", func(t *testing.T) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("%s/api/v1/organizations/%s/webhooks/%s:test", w.url, w.ours.organization, hook.GetId()), strings.NewReader("{}"))
		must(t, err)
		request.Header.Set("Authorization", "Bearer "+w.ours.owner)
		request.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(request)
		must(t, err)
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("got %s", answer.Status)
		}
	})
}

func TestMails(t *testing.T) {
	w := sqliteWorld(t)
	client := mailv1connect.NewMailServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(bearer(w.operator)))
	ctx := t.Context()
	queue, err := client.GetMailQueue(ctx, &mailv1.GetMailQueueRequest{})
	must(t, err)
	if queue.GetServer() != "" || queue.GetWaitingCount() != 1 || !strings.Contains(queue.GetWarning(), "no mail server is configured") || queue.GetOldestWaitingTime() == nil {
		t.Errorf("the queue is %v", queue)
	}
	tested, err := client.TestMail(ctx, &mailv1.TestMailRequest{})
	must(t, err)
	if m := tested.GetMail(); m.GetRecipient() != "operator@example.com" || m.GetTemplate() != "test" || m.GetState() != mailv1.MailState_MAIL_STATE_WAITING {
		t.Errorf("the test is %v", m)
	}
	listed, err := client.ListMails(ctx, &mailv1.ListMailsRequest{State: mailv1.MailState_MAIL_STATE_WAITING})
	must(t, err)
	if len(listed.GetMails()) != 2 || listed.GetMails()[1].GetId() != w.mail {
		t.Errorf("listed are %v", listed.GetMails())
	}
	if dead, err := client.ListMails(ctx, &mailv1.ListMailsRequest{State: mailv1.MailState_MAIL_STATE_DEAD}); err != nil || len(dead.GetMails()) != 0 {
		t.Errorf("dead are %v, %v", dead.GetMails(), err)
	}
	got, err := client.GetMail(ctx, &mailv1.GetMailRequest{MailId: w.mail})
	must(t, err)
	again, err := client.RetryMail(ctx, &mailv1.RetryMailRequest{MailId: w.mail})
	must(t, err)
	for _, answer := range []proto.Message{listed, got, again} {
		if text, err := protojson.Marshal(answer); err != nil || strings.Contains(string(text), "canary") {
			t.Errorf("%T shows what the mail says: %s, %v", answer, text, err)
		}
	}
	if strings.Contains(w.log.String(), "canary") {
		t.Error("the log holds what a mail says")
	}
	if _, err := client.GetMail(ctx, &mailv1.GetMailRequest{MailId: contract.NewTaskID().String()}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("a mail that does not exist: %v", err)
	}
}

// TestPublished has people act on an organization that has a webhook for everything.
func TestPublished(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		for _, step := range []struct {
			procedure string
			want      webhook.Type
		}{
			{"/chom.site.v1.SiteService/CreateSite", webhook.SiteCreated},
			{"/chom.site.v1.SiteService/UpdateSite", webhook.SiteUpdated},
			{"/chom.site.v1.SiteService/SuspendSite", webhook.SiteSuspended},
			{"/chom.site.v1.SiteService/ResumeSite", webhook.SiteResumed},
			{"/chom.site.v1.SiteService/DeleteSite", webhook.SiteDeleted},
			{"/chom.site.v1.SiteService/RestoreSite", webhook.SiteRestored},
			{"/chom.token.v1.TokenService/CreateOrganizationToken", webhook.TokenCreated},
			{"/chom.token.v1.TokenService/RevokeOrganizationToken", webhook.TokenRevoked},
			{"/chom.organization.v1.OrganizationService/UpdateMember", webhook.MemberUpdated},
			{"/chom.organization.v1.OrganizationService/RemoveMember", webhook.MemberRemoved},
			{"/chom.organization.v1.OrganizationService/UpdateOrganization", webhook.OrganizationUpdated},
			{"/chom.organization.v1.OrganizationService/CloseOrganization", webhook.OrganizationClosing},
		} {
			before := w.count(t, `SELECT COUNT(*) FROM webhook_deliveries WHERE webhook_id = $1`, w.ours.webhook)
			request := w.valid(step.procedure, w.ours)
			if strings.HasSuffix(step.procedure, "/CreateSite") { // the next one takes new.example.com
				domains := request.Descriptor().Fields().ByName("domains")
				request.Clear(domains)
				request.Mutable(domains).List().Append(protoreflect.ValueOfString("another.example.com"))
			}
			if strings.HasSuffix(step.procedure, "/CloseOrganization") {
				set(request, "name", "ours") // as a confirmation
			}
			if err := w.call(t, w.ours.owner, step.procedure, request); err != nil {
				t.Errorf("%s: %v", step.procedure, err)
				continue
			}
			var kind string
			must(t, d.Reader().QueryRow(t.Context(), `SELECT type FROM webhook_deliveries WHERE webhook_id = $1 ORDER BY id DESC LIMIT 1`, w.ours.webhook).Scan(&kind))
			if after := w.count(t, `SELECT COUNT(*) FROM webhook_deliveries WHERE webhook_id = $1`, w.ours.webhook); after != before+1 || kind != string(step.want) {
				t.Errorf("%s: %d deliveries more, the last of %s", step.procedure, after-before, kind)
			}
		}
		if n := w.count(t, `SELECT COUNT(*) FROM webhook_deliveries WHERE webhook_id = $1`, w.theirs.webhook); n != 1 {
			t.Errorf("another organization was told of %d events", n-1)
		}
	})
}
