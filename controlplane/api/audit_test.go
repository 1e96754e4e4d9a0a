package api

import (
	"context"
	"encoding/csv"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "chom.dev/proto/gen/chom/audit/v1"
	"chom.dev/proto/gen/chom/audit/v1/auditv1connect"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	"chom.dev/proto/gen/chom/fleet/v1/fleetv1connect"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	tokenv1 "chom.dev/proto/gen/chom/token/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

// TestAuditFailsClosed is case A14: where nothing can be recorded, no call has an effect.
func TestAuditFailsClosed(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		rename := func(from, to string) {
			must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
				_, err := tx.Exec(t.Context(), `ALTER TABLE `+from+` RENAME TO `+to)
				return err
			}))
		}
		rename("audit_events", "gone")
		defer rename("gone", "audit_events")
		before := w.effects(t)
		var failed []string
		for _, procedure := range procedures() {
			if err := w.call(t, w.operator, procedure, w.valid(procedure, w.ours)); connect.CodeOf(err) == connect.CodeInternal {
				failed = append(failed, procedure[strings.LastIndex(procedure, "/")+1:])
			}
		}
		for _, want := range []string{"CreateOrganization", "CreateServer", "CreateJoinToken", "DrainServer", "PrepareServer", "PingServer", "CancelTask", "ExportAuditEvents",
			"CreateSite", "UpdateSite", "SuspendSite", "DeleteSite",
			"CreateWebhook", "UpdateWebhook", "RotateWebhookSecret", "TestWebhook", "ReplayDelivery", "DeleteWebhook", "CreateDnsProvider", "DeleteDnsProvider", "CreatePolicy", "UpdatePolicy", "DeletePolicy", "CreateTarget", "UpdateTarget", "DeleteTarget", "RetryMail", "TestMail"} {
			if !slices.Contains(failed, want) {
				t.Errorf("%s did not fail", want)
			}
		}
		if after := w.effects(t); !maps.Equal(before, after) {
			t.Errorf("effects: before %v, after %v", before, after)
		}
		if err := w.call(t, w.ours.owner, "/chom.fleet.v1.ServerService/ListServers", w.valid("/chom.fleet.v1.ServerService/ListServers", w.ours)); connect.CodeOf(err) != connect.CodeInternal {
			t.Errorf("a refusal that cannot be recorded: %v", err)
		}
	})
}

func auditClient(w *world, token string) auditv1connect.AuditServiceClient {
	return auditv1connect.NewAuditServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(asCaller(token)))
}

// asCaller is bearer for streams, too.
type asCaller string

func (a asCaller) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return bearer(string(a))(next) }

func (a asCaller) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", "Bearer "+string(a))
		return conn
	}
}

func (a asCaller) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func TestAudit(t *testing.T) {
	w := sqliteWorld(t)
	ctx := t.Context()
	operator := auditClient(w, w.operator)
	t.Run("says who called, with what, and from where", func(t *testing.T) {
		servers := fleetv1connect.NewServerServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(asCaller(w.operator)))
		ctx, info := connect.NewClientContext(ctx)
		_, err := servers.DrainServer(ctx, &fleetv1.DrainServerRequest{ServerId: w.server})
		must(t, err)
		found, err := operator.ListAuditEvents(t.Context(), &auditv1.ListAuditEventsRequest{OrganizationId: nilUUID, Action: "server.drain", Object: w.server})
		if err != nil || len(found.GetEvents()) != 1 {
			t.Fatalf("got %v, %v", found, err)
		}
		event := found.GetEvents()[0]
		actor := event.GetActor()
		if actor.GetKind() != auditv1.ActorKind_ACTOR_KIND_PERSON || actor.GetId() == "" || actor.GetTokenId() == "" || actor.GetAddress() != "127.0.0.1" ||
			actor.GetRequestId() != info.ResponseHeader().Get("X-Request-Id") || event.GetOutcome() != auditv1.Outcome_OUTCOME_DONE || event.GetSequence() == 0 {
			t.Errorf("got %v", event)
		}
		mine, err := operator.ListMyAuditEvents(t.Context(), &auditv1.ListMyAuditEventsRequest{PageSize: 1})
		if err != nil || mine.GetEvents()[0].GetAction() != "server.drain" || mine.GetNextPageToken() == "" {
			t.Errorf("their own: %v, %v", mine, err)
		}
	})
	t.Run("shows nobody what others did", func(t *testing.T) {
		mine, err := auditClient(w, w.ours.viewer).ListMyAuditEvents(ctx, &auditv1.ListMyAuditEventsRequest{})
		if err != nil || len(mine.GetEvents()) != 0 {
			t.Errorf("got %v, %v", mine, err)
		}
	})
	t.Run("refuses a time that ends before it begins", func(t *testing.T) {
		now := timestamppb.Now()
		for field, request := range map[string]*auditv1.ListAuditEventsRequest{
			"end_time":   {OrganizationId: nilUUID, StartTime: now, EndTime: now},
			"start_time": {OrganizationId: nilUUID, StartTime: &timestamppb.Timestamp{Seconds: 1 << 60}},
		} {
			if _, err := operator.ListAuditEvents(ctx, request); connect.CodeOf(err) != connect.CodeInvalidArgument || namedField(err) != field {
				t.Errorf("%s: %v", field, err)
			}
		}
	})
	t.Run("exports, and records that", func(t *testing.T) {
		for format, contentType := range map[auditv1.ExportFormat]string{
			auditv1.ExportFormat_EXPORT_FORMAT_CSV: audit.CSV.ContentType, auditv1.ExportFormat_EXPORT_FORMAT_UNSPECIFIED: audit.JSONLines.ContentType,
		} {
			stream, err := auditClient(w, w.ours.owner).ExportAuditEvents(ctx, &auditv1.ExportAuditEventsRequest{OrganizationId: w.ours.organization, Format: format})
			must(t, err)
			var text strings.Builder
			for stream.Receive() {
				text.Write(stream.Msg().GetBody().GetData())
				if stream.Msg().GetBody().GetContentType() != contentType {
					t.Errorf("the content type is %s", stream.Msg().GetBody().GetContentType())
				}
			}
			must(t, stream.Err())
			must(t, stream.Close())
			if !strings.Contains(text.String(), w.ours.site) || strings.Contains(text.String(), w.theirs.organization) || !strings.Contains(text.String(), "audit.export") {
				t.Errorf("got %s", text.String())
			}
			if contentType == audit.CSV.ContentType {
				if _, err := csv.NewReader(strings.NewReader(text.String())).ReadAll(); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// TestRefusals is about what is recorded of those who are refused, and how much of it.
func TestRefusals(t *testing.T) {
	w := sqliteWorld(t)
	call := func(token, procedure string, about tenant) {
		t.Helper()
		if err := w.call(t, token, procedure, w.valid(procedure, about)); err == nil {
			t.Fatalf("%s was not refused", procedure)
		}
	}
	refused := func(organization, object string) int {
		return w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'access.refuse' AND outcome = 'refused' AND organization_id = $1 AND object = $2 AND address = '127.0.0.1'`, organization, object)
	}
	t.Run("members of an organization are recorded there", func(t *testing.T) {
		call(w.ours.viewer, "/chom.site.v1.SiteService/SuspendSite", w.ours)
		if n := refused(w.ours.organization, w.ours.site); n != 1 {
			t.Errorf("%d events", n)
		}
	})
	t.Run("strangers are recorded with the platform", func(t *testing.T) {
		call(w.ours.owner, "/chom.organization.v1.OrganizationService/GetOrganization", w.theirs)
		if n, there := refused(audit.Platform, w.theirs.organization), w.count(t, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1 AND action = 'access.refuse'`, w.theirs.organization); n != 1 || there != 0 {
			t.Errorf("%d events with the platform, %d with the organization", n, there)
		}
	})
	t.Run("more than ten in a minute are only counted", func(t *testing.T) {
		log := &strings.Builder{}
		d := testDoor(t, w, log)
		ctx := audit.As(t.Context(), audit.Actor{Kind: audit.Person, ID: "somebody"})
		began := time.Now().Unix() / 60
		for range 30 {
			must(t, d.refusals.record(ctx, audit.Platform, "/x/Y", "flood"))
		}
		must(t, d.refusals.record(audit.As(ctx, audit.Actor{Kind: audit.Person, ID: "somebody else"}), audit.Platform, "/x/Y", "flood"))
		n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = 'flood'`)
		last := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = 'flood' AND detail LIKE '%not recorded'`)
		if value := counted(t, d.metrics.unrecorded); time.Now().Unix()/60 == began && (n != 11 || last != 1 || value != 20) {
			t.Errorf("%d events, %d of them the last; %v are counted", n, last, value)
		}
	})
	t.Run("counting has a limit of its own", func(t *testing.T) {
		r := &refusals{}
		now := time.Now()
		for i := range refusersMax + 100 {
			r.count(refusal{actor: strings.Repeat("x", i%7) + time.Duration(i).String()}, now)
		}
		if len(r.counts) > refusersMax+1 {
			t.Errorf("%d callers are remembered", len(r.counts))
		}
		if r.count(refusal{actor: "new"}, now.Add(time.Minute)) != 1 || len(r.counts) != 1 {
			t.Error("the next minute does not begin anew")
		}
	})
}

func counted(t *testing.T, counter prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	must(t, counter.Write(&m))
	return m.GetCounter().GetValue()
}

// TestWhoOfThePlatform: an organization is told which operator acted upon it, and nobody else's address.
func TestWhoOfThePlatform(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		suspend := func(text string) {
			t.Helper()
			_, err := w.as(text).sites.SuspendSite(ctx, &sitev1.SuspendSiteRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site})
			must(t, err)
		}
		suspend(w.operator)
		suspend(w.ours.member)
		acting, err := w.as(w.operator).tokens.StartImpersonation(ctx, &tokenv1.StartImpersonationRequest{
			OrganizationId: w.ours.organization, AccountId: w.caller(t, w.ours.member).ID, Reason: "ticket 4711: it does not answer",
		})
		must(t, err)
		suspend(acting.GetSecret())
		told := func() (who []string) {
			t.Helper()
			audits := auditv1connect.NewAuditServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(bearer(w.ours.admin)))
			page, err := audits.ListAuditEvents(ctx, &auditv1.ListAuditEventsRequest{OrganizationId: w.ours.organization, Action: "site.suspend"})
			must(t, err)
			for _, e := range page.GetEvents() {
				who = append(who, e.GetActor().GetOperatorEmail()+"/"+e.GetActor().GetImpersonatorEmail())
			}
			return who
		}
		if got, want := told(), []string{"/" + operatorEmail, "/", operatorEmail + "/"}; !slices.Equal(got, want) {
			t.Errorf("they are told %q, not %q", got, want)
		}
		w.exec(t, `UPDATE accounts SET operator = FALSE WHERE email = $1`, operatorEmail)
		if got, want := told(), []string{"/", "/", "/"}; !slices.Equal(got, want) {
			t.Errorf("of somebody who is no operator any more they are told %q, not %q", got, want)
		}
	})
}
