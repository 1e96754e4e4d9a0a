<?php
// Installs WordPress into its database, unless it is there. Killed at any
// moment it can be run again: tables are made one by one and found again, all
// rows come in one transaction. Tells what there is in the end.
$in = chom_input();

// Nothing below may call out or write to anyone.
define( 'WP_INSTALLING', true );
// Without this WordPress gives up on tables that a killed run left empty.
define( 'WP_REPAIRING', true );
define( 'WP_SITEURL', $in['url'] );
chom_request( $in['url'] );

// WordPress takes this in place of its own, which would send a mail.
function wp_new_blog_notification() {}

require $in['tree'] . '/wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';

function chom_is_installed() {
	global $wpdb;
	$wpdb->suppress_errors( true );
	$installed = (bool) $wpdb->get_var( "SELECT option_value FROM {$wpdb->options} WHERE option_name = 'siteurl'" );
	$wpdb->suppress_errors( false );
	return $installed;
}

if ( ! chom_is_installed() ) {
	add_filter( 'pre_http_request', fn() => new WP_Error( 'chom', 'no calls during installation' ) );
	add_filter( 'pre_wp_mail', '__return_true' );
	add_filter( 'flush_rewrite_rules_hard', '__return_false' );
	// Permalinks are ours to set; WordPress would try them out over the network.
	$decided = fn() => '/decided/';
	add_filter( 'pre_option_permalink_structure', $decided );
	// Fires after the tables are made and before the first row.
	add_action( 'populate_options', fn() => $GLOBALS['wpdb']->query( 'START TRANSACTION' ), PHP_INT_MIN );

	$locale   = $in['locale'];
	$language = 'en_US' !== $locale && is_readable( WP_LANG_DIR . "/$locale.mo" ) ? $locale : '';
	if ( '' !== $language ) {
		load_default_textdomain( $language );
		$GLOBALS['wp_locale'] = new WP_Locale();
	}
	// Nobody knows this password: the owner comes in by a login link and may
	// choose one then.
	$password = bin2hex( random_bytes( 32 ) );
	wp_install( $in['title'], $in['user'], $in['email'], true, '', wp_slash( $password ), $language );

	remove_filter( 'pre_option_permalink_structure', $decided );
	update_option( 'permalink_structure', $in['permalinks'] );
	delete_option( 'rewrite_rules' ); // made by the first request that needs them
	if ( false === $wpdb->query( 'COMMIT' ) ) {
		throw new RuntimeException( 'commit: ' . $wpdb->last_error );
	}
}
chom_output( chom_measure( $in['locale'] ) );
