import type { SampleIds } from '#test/support/sample-requests.ts';

/** What can be asked of a volume and what that takes, one action each, all fields said. A test compares the names. */
export function volumeActionSamples(ids: Pick<SampleIds, 'images' | 'servers' | 'snapshots' | 'types'>): object[] {
  return [
    { 'os-extend': { new_size: 2 } },
    { 'os-set_bootable': { bootable: true } },
    { 'os-update_readonly_flag': { readonly: true } },
    { 'os-reset_status': { status: 'error', attach_status: 'detached', migration_status: 'none' } },
    { 'os-retype': { new_type: ids.types, migration_policy: 'on-demand' } },
    {
      'os-volume_upload_image': {
        ...{ image_name: 'x', force: true, disk_format: 'raw', container_format: 'bare', visibility: 'private' },
        ...{ protected: false, encryption: { key: 'none' } },
      },
    },
    { revert: { snapshot_id: ids.snapshots } },
    { 'os-reimage': { image_id: ids.images, reimage_reserved: true } },
    { 'os-migrate_volume': { host: 'x@x#x', force_host_copy: true, lock_volume: true } },
    { 'nightlatch:rekey': { volume_key: true } },
    { 'nightlatch:rekey': null },
    { 'nightlatch:set_migration_bandwidth': { bandwidth: 1 } },
    { 'nightlatch:cancel_migration': null },
    { 'nightlatch:header_backups': null },
    { 'nightlatch:restore_header': { version: 1 } },
    { 'os-force_delete': null },
    { 'os-reserve': null },
    { 'os-unreserve': null },
    { 'os-begin_detaching': null },
    { 'os-roll_detaching': null },
    { 'os-attach': { instance_uuid: ids.servers, mountpoint: '/dev/vdb', host_name: 'x', mode: 'ro' } },
    { 'os-detach': { attachment_id: null } },
    { 'os-force_detach': { attachment_id: null, connector: {} } },
    { 'os-set_image_metadata': { metadata: { a: 'b' } } },
    { 'os-unset_image_metadata': { key: 'a' } },
    { 'os-show_image_metadata': null },
  ];
}
