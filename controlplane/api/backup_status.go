package api

import (
	"context"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
)

func (s *backupService) GetBackupStatus(context.Context, *backupv1.GetBackupStatusRequest) (*backupv1.GetBackupStatusResponse, error) {
	return nil, errNotBuilt
}
