<?php
// Brings title and address to what the site should have, without the
// customer's plugins and themes, and tells how WordPress is then.
$in = chom_input();

define( 'WP_INSTALLING', true );
define( 'WP_REPAIRING', true ); // as chom_measure wants it
chom_request( $in['url'] );

require $in['tree'] . '/wp-load.php';

$wanted = array(
	'blogname' => $in['title'],
	'home'     => $in['url'],
	'siteurl'  => $in['url'],
);
foreach ( $wanted as $name => $value ) {
	$present = $wpdb->get_var( $wpdb->prepare( "SELECT option_value FROM {$wpdb->options} WHERE option_name = %s", $name ) );
	if ( null === $present ) {
		throw new RuntimeException( "the option $name is missing: {$wpdb->last_error}" );
	}
	$stored = sanitize_option( $name, $value );
	if ( $present === $stored ) {
		continue;
	}
	if ( false === $wpdb->update( $wpdb->options, array( 'option_value' => $stored ), array( 'option_name' => $name ) ) ) {
		throw new RuntimeException( "set $name: {$wpdb->last_error}" );
	}
	wp_cache_delete( $name, 'options' );
	wp_cache_delete( 'alloptions', 'options' ); // a persistent cache holds all of them there
}

chom_output( chom_measure( $in['locale'] ) );
