/** From errors to answers: one table from the code of a refusal to its HTTP status. */
import { EngineError, type EngineErrorCode } from '../../engine/errors.ts';
import type { ErrorBody } from './shapes.ts';

const STATUS_BY_CODE: Readonly<Record<EngineErrorCode, number>> = {
  invalid: 400,
  'not-found': 404,
  exists: 409,
  'in-use': 409,
  corrupt: 500,
  disk: 500,
  unavailable: 503,
  unsupported: 501,
};

/** Insufficient Storage (RFC 4918, section 11.5): no space is worth telling from a broken disk. */
const NO_SPACE_STATUS = 507;

/** In our words where Fastify's do not say what to do. */
const FRAMEWORK_MESSAGES: Readonly<Record<string, string>> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'the body has to be JSON: send it with content-type: application/json',
  FST_ERR_BAD_URL: 'the path of the request is no valid URL: after % come two digits of a UTF-8 byte',
  FST_ERR_MAX_PARAM_LENGTH: 'a name in the path of the request is longer than any name can be',
};

export interface Refusal {
  readonly status: number;
  readonly body: ErrorBody;
  /** Not a refusal but a fault of ours, to be logged with its stack. */
  readonly bug: boolean;
}

export function refusalOf(error: unknown): Refusal {
  if (error instanceof EngineError) {
    const noSpace = error.errno === 'ENOSPC' || error.errno === 'EDQUOT';
    return {
      status: noSpace ? NO_SPACE_STATUS : STATUS_BY_CODE[error.code],
      body: { code: error.code, message: oneLine(error.message) },
      bug: false,
    };
  }
  // What Fastify itself refuses: a body that does not fit its schema, is not JSON, is too long, …
  const { statusCode: status, code } = (error ?? {}) as { statusCode?: unknown; code?: unknown };
  if (typeof status === 'number' && status >= 400 && status < 500) {
    const message = FRAMEWORK_MESSAGES[String(code)] ?? oneLine((error as Error).message);
    return { status, body: { code: 'invalid', message }, bug: false };
  }
  return {
    status: 500,
    body: { code: 'internal', message: 'an internal error; the log of the node has the details' },
    bug: true,
  };
}

export function oneLine(message: string): string {
  return message.replace(/\s*\n\s*/g, ' ');
}
