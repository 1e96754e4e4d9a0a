<?php
// Made by CHOM when the site was installed. Yours to edit.

define( 'DB_NAME', 'sabcdefgh27' );
define( 'DB_USER', 's-abcdefgh27' );
// No password: MariaDB asks the kernel who connects to its socket.
define( 'DB_PASSWORD', '' );
define( 'DB_HOST', 'localhost:/run/mysqld/mysqld.sock' );
define( 'DB_CHARSET', 'utf8mb4' );
define( 'DB_COLLATE', '' );

define( 'AUTH_KEY', 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' );
define( 'SECURE_AUTH_KEY', 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' );
define( 'LOGGED_IN_KEY', 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' );
define( 'NONCE_KEY', 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' );
define( 'AUTH_SALT', 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' );
define( 'SECURE_AUTH_SALT', 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' );
define( 'LOGGED_IN_SALT', 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' );
define( 'NONCE_SALT', 'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk' );

$table_prefix = 'wp_';

// A timer of the host runs wp-cron.php every minute.
define( 'DISABLE_WP_CRON', true );
define( 'DISALLOW_FILE_EDIT', true );
define( 'WP_AUTO_UPDATE_CORE', 'minor' );
define( 'FS_METHOD', 'direct' );
// The group is the web server; others get nothing.
define( 'FS_CHMOD_DIR', 0750 );
define( 'FS_CHMOD_FILE', 0640 );
define( 'WP_DEBUG', false );
define( 'WP_HTTP_BLOCK_EXTERNAL', false );

if ( ! defined( 'ABSPATH' ) ) {
	define( 'ABSPATH', __DIR__ . '/' );
}
require_once ABSPATH . 'wp-settings.php';
