package mariadb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"chom.dev/proto/contract"
)

// Size is how many bytes the files of a schema take of the disk; false where there is no
// such schema.
//
// It is what is in the schema's directory that is counted, in blocks, and no file is
// opened. information_schema.tables would say how long data and indexes are, but by
// InnoDB's statistics, which lag behind and leave free pages out, and opens each table for
// that. What all schemas share (undo and redo logs, the system's tablespace) is nobody's.
// The directory is the server's alone, and with our settings (symbolic_links) it is where all
// files of the schema are.
func (s *Server) Size(ctx context.Context, schema contract.DBName) (bytes uint64, there bool, err error) {
	if schema.IsZero() {
		return 0, false, errors.New("size of database: no name")
	}
	var dir string
	if err := s.db.QueryRowContext(ctx, "SELECT @@datadir").Scan(&dir); err != nil {
		return 0, false, fmt.Errorf("size of database %s: %w", schema, err)
	}
	bytes, err = sizeOf(ctx, dir, schema.String())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("size of database %s: %w", schema, err)
	}
	return bytes, true, nil
}

// sizeOf adds up the blocks of what is in a directory of the server's data.
func sizeOf(ctx context.Context, data, schema string) (uint64, error) {
	root, err := os.OpenRoot(data)
	if err != nil {
		return 0, err
	}
	defer root.Close() // read-only
	own, err := root.Lstat(schema)
	if err == nil && !own.IsDir() {
		err = &fs.PathError{Op: "open", Path: schema, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return 0, err
	}
	d, err := root.Open(schema)
	if err != nil {
		return 0, err
	}
	defer d.Close() // read-only
	total := blocks(own)
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			st, err := root.Lstat(schema + "/" + name)
			if errors.Is(err, fs.ErrNotExist) { // a table was dropped
				continue
			}
			if err != nil {
				return 0, err
			}
			total += blocks(st)
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func blocks(st fs.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(sys.Blocks) * 512 // whatever the file system's block is; see stat(2)
	}
	return 0
}
