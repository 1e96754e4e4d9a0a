package api

import (
	"chom.dev/proto/gen/chom/backup/v1/backupv1connect"

	"chom.dev/controlplane/backup"
)

type policyService struct {
	backups *backup.Backups
	backupv1connect.UnimplementedPolicyServiceHandler
}
