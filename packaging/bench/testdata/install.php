<?php
// Writes wp-config.php and installs WordPress into its database, as the site's
// user: install.php TREE DATABASE USER DOMAIN TITLE.
list( , $tree, $database, $user, $domain, $title ) = $argv;

$config = "<?php\n";
foreach ( array(
	'DB_NAME'         => $database,
	'DB_USER'         => $user,
	'DB_PASSWORD'     => '', // the socket tells MariaDB who connects
	'DB_HOST'         => 'localhost:/run/mysqld/mysqld.sock',
	'DB_CHARSET'      => 'utf8mb4',
	'DB_COLLATE'      => '',
	'DISABLE_WP_CRON' => true,
) as $name => $value ) {
	$config .= "define( '$name', " . var_export( $value, true ) . " );\n";
}
foreach ( array( 'AUTH', 'SECURE_AUTH', 'LOGGED_IN', 'NONCE' ) as $name ) {
	$config .= "define( '{$name}_KEY', '" . bin2hex( random_bytes( 32 ) ) . "' );\n";
	$config .= "define( '{$name}_SALT', '" . bin2hex( random_bytes( 32 ) ) . "' );\n";
}
$config .= "\$table_prefix = 'wp_';\n";
$config .= "if ( ! defined( 'ABSPATH' ) ) define( 'ABSPATH', __DIR__ . '/' );\n";
$config .= "require_once ABSPATH . 'wp-settings.php';\n";
file_put_contents( "$tree/wp-config.php", $config );

define( 'WP_INSTALLING', true );
define( 'WP_SITEURL', "http://$domain" );
$_SERVER['HTTP_HOST']       = $domain;
$_SERVER['REQUEST_URI']     = '/';
$_SERVER['REQUEST_METHOD']  = 'GET';
$_SERVER['SERVER_PROTOCOL'] = 'HTTP/1.1';

function wp_new_blog_notification() {} // instead of WordPress's own: it would send a mail

require "$tree/wp-load.php";
require ABSPATH . 'wp-admin/includes/upgrade.php';

// No calls out, no trial of permalinks over the network.
add_filter( 'pre_http_request', fn() => new WP_Error( 'bench', 'no calls' ) );
add_filter( 'pre_option_permalink_structure', fn() => '/decided/' );
wp_install( $title, 'owner', 'owner@bench.example', true, '', bin2hex( random_bytes( 32 ) ) );
remove_all_filters( 'pre_option_permalink_structure' );
update_option( 'permalink_structure', '/%year%/%monthnum%/%day%/%postname%/' );
