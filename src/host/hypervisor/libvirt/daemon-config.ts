import { randomUUID } from 'node:crypto';

/** A console log keeps this much, twice: the file being written and the one before it. They lie in memory. */
const CONSOLE_LOG_BYTES = 512 * 1024;

/** The configuration files of a private libvirt, by name. */
export function daemonConfig(): Readonly<Record<string, string>> {
  return {
    'libvirtd.conf': lines({
      // Only root reaches the socket: its folder is closed to others.
      unix_sock_rw_perms: '0700',
      auth_unix_ro: 'none',
      auth_unix_rw: 'none',
      log_outputs: '3:stderr',
      // Not every machine has a DMI table or a machine id to take one from.
      host_uuid: randomUUID(),
    }),
    'virtlogd.conf': lines({ log_outputs: '3:stderr', max_size: CONSOLE_LOG_BYTES, max_backups: 1 }),
    'qemu.conf': lines({
      user: 'root',
      group: 'root',
      // Whose the disks are is decided by who makes them.
      dynamic_ownership: 0,
      remember_owner: 0,
      security_driver: 'none',
      // No control groups and no device namespace: guests are children of a daemon without systemd.
      cgroup_controllers: [],
      namespaces: [],
      stdio_handler: 'logd',
      // A crash never writes guest memory to a medium.
      max_core: 0,
      dump_guest_core: 0,
    }),
  };
}

function lines(settings: Readonly<Record<string, string | number | readonly string[]>>): string {
  return Object.entries(settings)
    .map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
    .join('');
}
