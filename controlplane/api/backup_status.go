package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
)

var errNotBuilt = connect.NewError(connect.CodeUnimplemented, errors.New("not built yet"))

func (s *backupService) GetBackupStatus(context.Context, *backupv1.GetBackupStatusRequest) (*backupv1.GetBackupStatusResponse, error) {
	return nil, errNotBuilt
}
