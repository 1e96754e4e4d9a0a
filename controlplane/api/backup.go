package api

import (
	"bufio"
	"context"
	"io/fs"
	"path"
	"slices"

	"connectrpc.com/connect"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/backup"
	"chom.dev/proto/contract"
)

type backupService struct{ backups *backup.Backups }

// backupID parses the id that a request about one backup has.
func backupID(r interface{ GetBackupId() string }) (contract.BackupID, error) {
	id, err := contract.ParseBackupID(r.GetBackupId())
	if err != nil {
		return id, invalid("backup_id", err)
	}
	return id, nil
}

func (s *backupService) CreateBackup(ctx context.Context, r *backupv1.CreateBackupRequest) (*backupv1.CreateBackupResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	made, err := s.backups.Create(ctx, organization, site)
	if err != nil {
		return nil, err
	}
	return &backupv1.CreateBackupResponse{Backup: backupMessage(made)}, nil
}

func (s *backupService) GetBackup(ctx context.Context, r *backupv1.GetBackupRequest) (*backupv1.GetBackupResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	id, err := backupID(r)
	if err != nil {
		return nil, err
	}
	found, err := s.backups.Get(ctx, organization, site, id)
	if err != nil {
		return nil, err
	}
	return &backupv1.GetBackupResponse{Backup: backupMessage(found)}, nil
}

func (s *backupService) ListBackups(ctx context.Context, r *backupv1.ListBackupsRequest) (*backupv1.ListBackupsResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	found, next, size, err := s.backups.List(ctx, organization, site, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &backupv1.ListBackupsResponse{NextPageToken: next, RepositoryBytes: size}
	for _, one := range found {
		m := backupMessage(one)
		if m.Contents != nil {
			m.Contents.Tables = nil
		}
		answer.Backups = append(answer.Backups, m)
	}
	return answer, nil
}

func (s *backupService) BrowseBackup(ctx context.Context, r *backupv1.BrowseBackupRequest) (*backupv1.BrowseBackupResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	id, err := backupID(r)
	if err != nil {
		return nil, err
	}
	found, next, err := s.backups.Browse(ctx, organization, site, id, r.GetPath(), r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	answer := &backupv1.BrowseBackupResponse{NextPageToken: next}
	for _, f := range found {
		answer.Files = append(answer.Files, &backupv1.BackupFile{
			Name: path.Base(f.Path), Type: fileTypes[f.Mode.Type()], Size: f.Size, Mode: uint32(f.Mode.Perm()), ModifyTime: timestamppb.New(f.MTime),
		})
	}
	return answer, nil
}

var fileTypes = map[fs.FileMode]backupv1.BackupFile_Type{
	0:              backupv1.BackupFile_TYPE_FILE,
	fs.ModeDir:     backupv1.BackupFile_TYPE_DIRECTORY,
	fs.ModeSymlink: backupv1.BackupFile_TYPE_LINK,
}

// pieceSize bounds a message of a download.
const pieceSize = 64 << 10

func (s *backupService) DownloadBackup(ctx context.Context, r *backupv1.DownloadBackupRequest, stream *connect.ServerStream[backupv1.DownloadBackupResponse]) error {
	organization, site, err := siteIDs(r)
	if err != nil {
		return err
	}
	id, err := backupID(r)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(pieces(func(b []byte) error { return stream.Send(&backupv1.DownloadBackupResponse{Data: b}) }), pieceSize)
	if err := s.backups.Download(ctx, organization, site, id, r.GetPath(), out); err != nil {
		return err
	}
	return out.Flush()
}

func (s *backupService) ExportBackup(ctx context.Context, r *backupv1.ExportBackupRequest, stream *connect.ServerStream[backupv1.ExportBackupResponse]) error {
	organization, site, err := siteIDs(r)
	if err != nil {
		return err
	}
	id, err := backupID(r)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(pieces(func(b []byte) error { return stream.Send(&backupv1.ExportBackupResponse{Data: b}) }), pieceSize)
	if err := s.backups.Export(ctx, organization, site, id, r.GetExport() == backupv1.ExportBackupRequest_EXPORT_DATABASE, out); err != nil {
		return err
	}
	return out.Flush()
}

// pieces sends what is written to it.
type pieces func(piece []byte) error

func (p pieces) Write(b []byte) (int, error) {
	for piece := range slices.Chunk(b, pieceSize) {
		if err := p(piece); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (s *backupService) RestoreBackup(ctx context.Context, r *backupv1.RestoreBackupRequest) (*backupv1.RestoreBackupResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	id, err := backupID(r)
	if err != nil {
		return nil, err
	}
	made, err := s.backups.Restore(ctx, organization, site, id, backup.Parts{
		FilesOnly: r.GetFilesOnly(), DatabaseOnly: r.GetDatabaseOnly(), Tables: r.GetTables(), WithoutBackup: r.GetWithoutBackup(),
	})
	if err != nil {
		return nil, err
	}
	return &backupv1.RestoreBackupResponse{Restore: restoreMessage(made)}, nil
}

func (s *backupService) CopyBackup(ctx context.Context, r *backupv1.CopyBackupRequest) (*backupv1.CopyBackupResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	id, err := backupID(r)
	if err != nil {
		return nil, err
	}
	to, err := contract.ParseSiteID(r.GetToSiteId())
	if err != nil {
		return nil, invalid("to_site_id", err)
	}
	if only := reachOf(ctx); only != nil && !slices.Contains(only, to.String()) {
		return nil, errNoSite
	}
	made, err := s.backups.Copy(ctx, organization, site, id, to)
	if err != nil {
		return nil, err
	}
	return &backupv1.CopyBackupResponse{Backup: backupMessage(made)}, nil
}

func (s *backupService) CancelBackup(ctx context.Context, r *backupv1.CancelBackupRequest) (*backupv1.CancelBackupResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	id, err := backupID(r)
	if err != nil {
		return nil, err
	}
	ended, err := s.backups.Cancel(ctx, organization, site, id)
	if err != nil {
		return nil, err
	}
	return &backupv1.CancelBackupResponse{Backup: backupMessage(ended)}, nil
}

func (s *backupService) ListRestores(ctx context.Context, r *backupv1.ListRestoresRequest) (*backupv1.ListRestoresResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	found, err := s.backups.ListRestores(ctx, organization, site)
	if err != nil {
		return nil, err
	}
	answer := &backupv1.ListRestoresResponse{}
	for _, one := range found {
		answer.Restores = append(answer.Restores, restoreMessage(one))
	}
	return answer, nil
}

func (s *backupService) UndoRestore(ctx context.Context, r *backupv1.UndoRestoreRequest) (*backupv1.UndoRestoreResponse, error) {
	organization, site, err := siteIDs(r)
	if err != nil {
		return nil, err
	}
	id, err := contract.ParseRestoreID(r.GetRestoreId())
	if err != nil {
		return nil, invalid("restore_id", err)
	}
	undoing, err := s.backups.Undo(ctx, organization, site, id)
	if err != nil {
		return nil, err
	}
	return &backupv1.UndoRestoreResponse{Restore: restoreMessage(undoing)}, nil
}

// backupMessage is a backup as callers see it; what is said of its contents is its host's word until it is READY.
func backupMessage(b backup.Backup) *backupv1.Backup {
	m := &backupv1.Backup{
		Id: b.ID.String(), OrganizationId: b.Organization.String(), SiteId: b.Site.String(), Sequence: b.Sequence, State: backupStates[b.State],
		Reason: backupReasons[b.Reason], Problem: b.Problem, CreateTime: timestamppb.New(b.CreatedAt), TaskId: b.TaskID,
		TargetId: b.Target.String(),
	}
	if !b.Source.IsZero() {
		m.SourceBackupId, m.SourceSiteId = b.Source.String(), b.SourceSite.String()
	}
	if !b.Source.IsZero() {
		m.SourceBackupId, m.SourceSiteId = b.Source.String(), b.SourceSite.String()
	}
	if b.Report != nil {
		m.StartTime, m.EndTime, m.AddedBytes = b.Report.GetStartTime(), b.Report.GetEndTime(), b.Report.GetAddedBytes()
		m.Contents = proto.CloneOf(b.Report.GetContents())
	}
	if !b.CheckedAt.IsZero() {
		m.CheckTime = timestamppb.New(b.CheckedAt)
	}
	return m
}

func restoreMessage(r backup.Restoration) *backupv1.Restore {
	m := &backupv1.Restore{
		Id: r.ID.String(), OrganizationId: r.Organization.String(), SiteId: r.Site.String(), BackupId: r.Backup.String(), Files: r.Files, Database: r.Database,
		TaskId: r.TaskID, CreateTime: timestamppb.New(r.CreatedAt), Undone: r.Undone, Problem: r.Problem, Tables: r.Tables,
	}
	if !r.Before.IsZero() {
		m.BeforeBackupId = r.Before.String()
	}
	if !r.EndedAt.IsZero() {
		m.EndTime = timestamppb.New(r.EndedAt)
	}
	if !r.UndoUntil.IsZero() {
		m.UndoUntil = timestamppb.New(r.UndoUntil)
	}
	return m
}

var backupStates = map[backup.State]backupv1.State{
	backup.Running:  backupv1.State_STATE_RUNNING,
	backup.Checking: backupv1.State_STATE_CHECKING,
	backup.Ready:    backupv1.State_STATE_READY,
	backup.Failed:   backupv1.State_STATE_FAILED,
}

var backupReasons = map[backup.Reason]backupv1.Reason{
	backup.Requested:     backupv1.Reason_REASON_REQUESTED,
	backup.Scheduled:     backupv1.Reason_REASON_SCHEDULED,
	backup.BeforeRestore: backupv1.Reason_REASON_BEFORE_RESTORE,
	backup.Copied:        backupv1.Reason_REASON_COPIED,
	backup.Imported:      backupv1.Reason_REASON_IMPORTED,
}
