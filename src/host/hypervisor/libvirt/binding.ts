import koffi from 'koffi';

/** A handle of the C library: a connection, a domain or a secret. */
export type Handle = { readonly [handle]: true };
declare const handle: unique symbol;

/** A function of the C library, as koffi gives it. */
type Native<Args extends unknown[], Result> = {
  (...args: Args): Result;
  async(...args: [...Args, (error: unknown) => void]): void;
};

const libc = koffi.load(null);
const libvirt = koffi.load('libvirt.so.0');
/** A string that the caller frees, which koffi does after copying it. */
koffi.disposable('OwnedString', 'str', libc.func('void free(void *)'));
koffi.proto('void ErrorFunction(void *data, void *error)');
koffi.proto('void EventTimeout(int timer, void *data)');
koffi.proto('int LifecycleCallback(void *connection, void *domain, int event, int detail, void *data)');
koffi.proto('void CloseCallback(void *connection, int reason, void *data)');

function declare<Args extends unknown[], Result>(prototype: string): Native<Args, Result> {
  return libvirt.func(prototype) as unknown as Native<Args, Result>;
}

/**
 * The part of libvirt's public C interface that is used here, under libvirt's own names. Its ABI is the one interface
 * libvirt promises to keep. *See* libvirt.org/html/libvirt-libvirt-domain.html.
 */
export const native = {
  virInitialize: declare<[], number>('int virInitialize()'),
  virSetErrorFunc: declare<[null, unknown], void>('void virSetErrorFunc(void *, ErrorFunction *)'),
  virGetLastErrorCode: declare<[], number>('int virGetLastErrorCode()'),
  virGetLastErrorMessage: declare<[], string>('str virGetLastErrorMessage()'),
  virConnectOpen: declare<[string], Handle | null>('void *virConnectOpen(str)'),
  virConnectClose: declare<[Handle], number>('int virConnectClose(void *)'),
  virConnectIsAlive: declare<[Handle], number>('int virConnectIsAlive(void *)'),
  virConnectGetLibVersion: declare<[Handle, number[]], number>(
    'int virConnectGetLibVersion(void *, _Out_ unsigned long *)',
  ),
  virConnectSetKeepAlive: declare<[Handle, number, number], number>(
    'int virConnectSetKeepAlive(void *, int, unsigned int)',
  ),
  virConnectListAllDomains: declare<[Handle, unknown[], number], number>(
    'int virConnectListAllDomains(void *, _Out_ void **, unsigned int)',
  ),
  virConnectListAllSecrets: declare<[Handle, unknown[], number], number>(
    'int virConnectListAllSecrets(void *, _Out_ void **, unsigned int)',
  ),
  virDomainLookupByUUIDString: declare<[Handle, string], Handle | null>(
    'void *virDomainLookupByUUIDString(void *, str)',
  ),
  virDomainCreateXML: declare<[Handle, string, number], Handle | null>(
    'void *virDomainCreateXML(void *, str, unsigned int)',
  ),
  virDomainFree: declare<[Handle], number>('int virDomainFree(void *)'),
  virDomainGetName: declare<[Handle], string>('str virDomainGetName(void *)'),
  virDomainGetUUIDString: declare<[Handle, Buffer], number>('int virDomainGetUUIDString(void *, void *)'),
  virDomainGetState: declare<[Handle, number[], number[], number], number>(
    'int virDomainGetState(void *, _Out_ int *, _Out_ int *, unsigned int)',
  ),
  virDomainGetMetadata: declare<[Handle, number, string, number], string | null>(
    'OwnedString virDomainGetMetadata(void *, int, str, unsigned int)',
  ),
  virDomainGetXMLDesc: declare<[Handle, number], string | null>(
    'OwnedString virDomainGetXMLDesc(void *, unsigned int)',
  ),
  virDomainAttachDeviceFlags: declare<[Handle, string, number], number>(
    'int virDomainAttachDeviceFlags(void *, str, unsigned int)',
  ),
  virDomainDetachDeviceFlags: declare<[Handle, string, number], number>(
    'int virDomainDetachDeviceFlags(void *, str, unsigned int)',
  ),
  virDomainBlockResize: declare<[Handle, string, bigint, number], number>(
    'int virDomainBlockResize(void *, str, unsigned long long, unsigned int)',
  ),
  virDomainGetBlockInfo: declare<[Handle, string, Buffer, number], number>(
    'int virDomainGetBlockInfo(void *, str, void *, unsigned int)',
  ),
  virDomainShutdownFlags: declare<[Handle, number], number>('int virDomainShutdownFlags(void *, unsigned int)'),
  virDomainDestroyFlags: declare<[Handle, number], number>('int virDomainDestroyFlags(void *, unsigned int)'),
  virDomainSuspend: declare<[Handle], number>('int virDomainSuspend(void *)'),
  virDomainResume: declare<[Handle], number>('int virDomainResume(void *)'),
  virDomainSaveFlags: declare<[Handle, string, null, number], number>(
    'int virDomainSaveFlags(void *, str, str, unsigned int)',
  ),
  virDomainSaveImageGetXMLDesc: declare<[Handle, string, number], string | null>(
    'OwnedString virDomainSaveImageGetXMLDesc(void *, str, unsigned int)',
  ),
  virDomainRestoreFlags: declare<[Handle, string, string, number], number>(
    'int virDomainRestoreFlags(void *, str, str, unsigned int)',
  ),
  virDomainBlockCopy: declare<[Handle, string, string, Buffer | null, number, number], number>(
    'int virDomainBlockCopy(void *, str, str, void *, int, unsigned int)',
  ),
  virDomainGetBlockJobInfo: declare<[Handle, string, Buffer, number], number>(
    'int virDomainGetBlockJobInfo(void *, str, void *, unsigned int)',
  ),
  virDomainBlockJobSetSpeed: declare<[Handle, string, bigint, number], number>(
    'int virDomainBlockJobSetSpeed(void *, str, unsigned long, unsigned int)',
  ),
  virDomainBlockJobAbort: declare<[Handle, string, number], number>(
    'int virDomainBlockJobAbort(void *, str, unsigned int)',
  ),
  virSecretDefineXML: declare<[Handle, string, number], Handle | null>(
    'void *virSecretDefineXML(void *, str, unsigned int)',
  ),
  virSecretSetValue: declare<[Handle, Buffer, number, number], number>(
    'int virSecretSetValue(void *, const void *, size_t, unsigned int)',
  ),
  virSecretLookupByUUIDString: declare<[Handle, string], Handle | null>(
    'void *virSecretLookupByUUIDString(void *, str)',
  ),
  virSecretLookupByUsage: declare<[Handle, number, string], Handle | null>(
    'void *virSecretLookupByUsage(void *, int, str)',
  ),
  virSecretGetUsageID: declare<[Handle], string>('str virSecretGetUsageID(void *)'),
  virSecretUndefine: declare<[Handle], number>('int virSecretUndefine(void *)'),
  virSecretFree: declare<[Handle], number>('int virSecretFree(void *)'),
  virEventRegisterDefaultImpl: declare<[], number>('int virEventRegisterDefaultImpl()'),
  virEventRunDefaultImpl: declare<[], number>('int virEventRunDefaultImpl()'),
  virConnectDomainEventRegisterAny: declare<[Handle, null, number, unknown, null, null], number>(
    'int virConnectDomainEventRegisterAny(void *, void *, int, LifecycleCallback *, void *, void *)',
  ),
  virConnectRegisterCloseCallback: declare<[Handle, unknown, null, null], number>(
    'int virConnectRegisterCloseCallback(void *, CloseCallback *, void *, void *)',
  ),
};

/** Makes a JavaScript function callable by the C library for as long as the process lives. */
export function callback<Args extends unknown[]>(type: string, run: (...args: Args) => unknown): unknown {
  return koffi.register(run, `${type} *`);
}

/** The handles of an array that libvirt allocated, which is freed. */
export function takeHandles(array: unknown, count: number): Handle[] {
  const handles = count === 0 ? [] : (koffi.decode(array, koffi.array('void *', count)) as Handle[]);
  freeMemory(array);
  return [...handles];
}

const freeMemory = libc.func('void free(void *)') as unknown as (memory: unknown) => void;

/** Keeps libvirt from printing errors; whoever calls reads them. */
export function silenceErrors(): void {
  native.virSetErrorFunc(
    null,
    callback('ErrorFunction', () => {}),
  );
}
