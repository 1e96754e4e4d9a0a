package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"
)

var errNotBuilt = connect.NewError(connect.CodeUnimplemented, errors.New("not built yet"))

func (s *backupService) DrillBackup(context.Context, *backupv1.DrillBackupRequest) (*backupv1.DrillBackupResponse, error) {
	return nil, errNotBuilt
}

func (s *backupService) ListDrills(context.Context, *backupv1.ListDrillsRequest) (*backupv1.ListDrillsResponse, error) {
	return nil, errNotBuilt
}
