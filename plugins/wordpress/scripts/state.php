<?php
// Reads how WordPress is, without the customer's plugins and themes.
$in = chom_input();

define( 'WP_INSTALLING', true );
define( 'WP_REPAIRING', true ); // an empty database is an answer, not an error page
chom_request( $in['url'] );

require $in['tree'] . '/wp-load.php';
require ABSPATH . WPINC . '/version.php';

$wpdb->suppress_errors( true );
// Straight from the table: a cache may be stale.
function chom_option( $name ) {
	global $wpdb;
	return (string) $wpdb->get_var( $wpdb->prepare( "SELECT option_value FROM {$wpdb->options} WHERE option_name = %s", $name ) );
}
if ( '' === chom_option( 'siteurl' ) && '' !== $wpdb->last_error && ! $wpdb->check_connection( false ) ) {
	throw new RuntimeException( 'the database does not answer' );
}

$locale = $in['locale'];
// What a theme with title support puts around a plain home page; see
// wp_get_document_title().
$title = apply_filters( 'document_title', get_bloginfo( 'name', 'display' ) );

chom_output(
	array(
		'installed'        => '' !== chom_option( 'siteurl' ),
		'version'          => $wp_version,
		'database_version' => chom_option( 'db_version' ),
		'code_version'     => (string) $wp_db_version,
		'home'             => untrailingslashit( chom_option( 'home' ) ),
		'home_title'       => $title,
		'has_language'     => 'en_US' === $locale || is_readable( WP_LANG_DIR . "/$locale.mo" ),
		// WordPress itself forgets about the file after ten minutes.
		'maintenance'      => is_file( ABSPATH . '.maintenance' ) && filemtime( ABSPATH . '.maintenance' ) < time() - 600,
	)
);
