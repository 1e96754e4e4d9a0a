package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	"chom.dev/proto/gen/chom/backup/v1/backupv1connect"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/backup/target"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/proto/contract"
	"chom.dev/servers/s3"
)

// bucket is a real server with a bucket, which all tests share: what one does there no other one sees.
var bucket = sync.OnceValue(func() *s3.Server {
	dir, err := os.MkdirTemp("", "chom-api-bucket-")
	if err != nil {
		panic(err)
	}
	bucketDir = dir
	server, err := s3.Start(context.Background(), s3.Options{Dir: dir, Buckets: []string{"backups"}, SecretKey: canaryToken, TLS: true})
	if err != nil {
		panic(err)
	}
	return server
})

var bucketDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if bucketDir != "" {
		bucket().Stop()
		_ = os.RemoveAll(bucketDir) // a leftover below /tmp harms nobody
	}
	os.Exit(code)
}

func bucketPlace() *backupv1.S3Place {
	return &backupv1.S3Place{Endpoint: bucket().Endpoint, Bucket: "backups", AccessKeyId: "access"}
}

func bucketCredentials() *backupv1.TargetCredentials {
	return &backupv1.TargetCredentials{Secret: &backupv1.TargetCredentials_SecretAccessKey{SecretAccessKey: canaryToken}}
}

func newTargets(t testing.TB, d *db.DB, log *slog.Logger) *target.Targets {
	t.Helper()
	own, err := store.OpenDisk(filepath.Join(t.TempDir(), "backups"))
	must(t, err)
	t.Cleanup(func() { _ = own.Close() })
	return target.New(d, log, target.Config{
		Keys: secrettest.New(), Own: own, Dialer: outbound.New(outbound.Allow(netip.MustParsePrefix("127.0.0.0/8"))), Roots: bucket().Roots,
	})
}

func newTarget(t testing.TB, targets *target.Targets, of tenant) string {
	t.Helper()
	organization, err := contract.ParseOrganizationID(of.organization)
	must(t, err)
	made, err := targets.Create(t.Context(), organization, "main", target.Place{S3: target.S3From(bucketPlace())}, target.CredentialsFrom(bucketCredentials()))
	must(t, err)
	return made.ID.String()
}

func TestTargets(t *testing.T) {
	w := sqliteWorld(t)
	ctx := t.Context()
	client := func(token string) backupv1connect.TargetServiceClient {
		return backupv1connect.NewTargetServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(bearer(token)))
	}
	owner, member, viewer := client(w.ours.owner), client(w.ours.member), client(w.ours.viewer)
	create := func(by backupv1connect.TargetServiceClient) (*backupv1.Target, error) {
		made, err := by.CreateTarget(ctx, &backupv1.CreateTargetRequest{
			OrganizationId: w.ours.organization, Name: "offsite", Place: &backupv1.CreateTargetRequest_S3{S3: bucketPlace()}, Credentials: bucketCredentials(),
		})
		return made.GetTarget(), err
	}
	for _, by := range []backupv1connect.TargetServiceClient{member, viewer} {
		if _, err := create(by); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("who may not: %v", err)
		}
	}
	made, err := create(owner)
	must(t, err)
	about := func() (string, string) { return made.GetOrganizationId(), made.GetId() }
	organization, id := about()
	t.Run("members see one without what lets in", func(t *testing.T) {
		got, err := viewer.GetTarget(ctx, &backupv1.GetTargetRequest{OrganizationId: organization, TargetId: id})
		must(t, err)
		listed, err := viewer.ListTargets(ctx, &backupv1.ListTargetsRequest{OrganizationId: organization})
		must(t, err)
		if len(listed.GetTargets()) != 2 || got.GetTarget().GetS3().GetBucket() != "backups" || got.GetTarget().GetCheckTime() == nil {
			t.Errorf("%v, %v", got, listed)
		}
		if said := made.String() + got.String() + listed.String() + w.log.String(); strings.Contains(said, canaryToken) {
			t.Error(said)
		}
	})
	t.Run("a policy names one of its organization's", func(t *testing.T) {
		policies := backupv1connect.NewPolicyServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(bearer(w.ours.owner)))
		if _, err := policies.CreatePolicy(ctx, &backupv1.CreatePolicyRequest{OrganizationId: organization, Name: "away", TargetId: w.theirs.target}); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("got %v", err)
		}
		policy, err := policies.CreatePolicy(ctx, &backupv1.CreatePolicyRequest{OrganizationId: organization, Name: "away", TargetId: id})
		if err != nil || policy.GetPolicy().GetTargetId() != id {
			t.Fatalf("%v, %v", policy, err)
		}
		if _, err := owner.DeleteTarget(ctx, &backupv1.DeleteTargetRequest{OrganizationId: organization, TargetId: id}); connect.CodeOf(err) != connect.CodeFailedPrecondition {
			t.Errorf("got %v", err)
		}
		changed, err := policies.UpdatePolicy(ctx, &backupv1.UpdatePolicyRequest{
			OrganizationId: organization, PolicyId: policy.GetPolicy().GetId(), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"target"}},
		})
		if err != nil || changed.GetPolicy().GetTargetId() != "" {
			t.Errorf("%v, %v", changed, err)
		}
	})
	t.Run("what lets in may be changed, to what does", func(t *testing.T) {
		update := func(secret string, paths ...string) error {
			_, err := owner.UpdateTarget(ctx, &backupv1.UpdateTargetRequest{
				OrganizationId: organization, TargetId: id, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}, Name: "renamed",
				Credentials: &backupv1.TargetCredentials{Secret: &backupv1.TargetCredentials_SecretAccessKey{SecretAccessKey: secret}},
			})
			return err
		}
		if err := update("another", "credentials"); connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "refuses") {
			t.Errorf("got %v", err)
		}
		if err := update(canaryToken, "credentials", "name"); err != nil {
			t.Error(err)
		}
		if err := update(canaryToken, "sealed"); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("got %v", err)
		}
	})
	checked, err := owner.CheckTarget(ctx, &backupv1.CheckTargetRequest{OrganizationId: organization, TargetId: id})
	if err != nil || checked.GetTarget().GetProblem() != "" || checked.GetTarget().GetName() != "renamed" {
		t.Errorf("%v, %v", checked, err)
	}
	_, err = owner.DeleteTarget(ctx, &backupv1.DeleteTargetRequest{OrganizationId: organization, TargetId: id})
	must(t, err)
	if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE object = $1 AND action LIKE 'backup_target.%'`, id); n != 3 {
		t.Errorf("%d audit events", n)
	}
}
